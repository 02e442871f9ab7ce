"""Every container of a cluster is a machine of its own: what must never be the same in two of them is not.

Clones are cleaned before they start (agent/containers/image_clean.py). This looks from the other end, into the
containers themselves, and shares nothing with that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.steps import Shell
from coordinator.survey import gather_all
from proto.errors import CaasError, Code

STEP = "cluster/unique"
#: Looks under way at the same time: each is one short shell, and an agent's host has to start it.
AT_ONCE = 16
_SECONDS = 30.0
_SHOWN = 6
_HOST_KEY = "SSH host key"
#: A line KIND=VALUE for each identity that is there. Nothing but what a POSIX shell has: any image can run it.
_SCRIPT = """
show() {
    line=
    [ ! -r "$2" ] || read -r line < "$2" || :
    [ -z "$line" ] || printf '%s=%s\\n' "$1" "$line"
}
show 'machine-id' /etc/machine-id
show 'D-Bus machine-id' /var/lib/dbus/machine-id
show 'host name' /proc/sys/kernel/hostname
show '/etc/hostname' /etc/hostname
show 'MAC' /sys/class/net/eth0/address
show 'nova compute_id' /var/lib/nova/compute_id
show 'nova compute_id' /opt/stack/data/nova/compute_id
for key in /etc/ssh/ssh_host_*_key.pub; do
    show 'SSH host key' "$key"
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """An identity that several containers have: "machine-id", its value, their names."""

    kind: str
    value: str
    containers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.containers)} have the same {self.kind} ({self.value})"


async def find_shared(shells: Mapping[str, Shell], *, at_once: int = AT_ONCE) -> tuple[Shared, ...]:
    """What any two containers of *shells* (by name) have in common and must not. One look into each, *at_once* at a
    time. What a container does not have yet is nobody's. FAILED or NOT_FOUND where one cannot be looked into."""
    gate = asyncio.Semaphore(at_once)

    async def ask(shell: Shell) -> bytes:
        async with gate:
            return (await shell.run(("sh", "-s"), stdin=_SCRIPT.encode(), timeout=_SECONDS)).stdout

    answers = await gather_all([ask(shell) for shell in shells.values()])
    owners: dict[tuple[str, str], list[str]] = {}
    for name, answer in zip(shells, answers, strict=True):
        assert isinstance(answer, bytes)
        for identity in sorted(set(_read(answer))):
            owners.setdefault(identity, []).append(name)
    return tuple(
        Shared(kind=kind, value=value, containers=tuple(names))
        for (kind, value), names in owners.items()
        if len(names) > 1
    )


def _read(answer: bytes) -> Iterable[tuple[str, str]]:
    for line in answer.decode(errors="replace").splitlines():
        kind, equals, value = line.partition("=")
        if equals:
            yield kind, fingerprint(value) if kind == _HOST_KEY else value


def fingerprint(public_key: str) -> str:
    """A line of sshd(8)'s public key format as `ssh-keygen -l` shows it; the line itself where it is none."""
    fields = public_key.split()
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except (IndexError, binascii.Error):
        return public_key
    return f"{fields[0]} SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueStep:
    """Nothing is mended: an identity that is in use cannot be changed under the services that know it."""

    id: str
    title: str
    needs: frozenset[str]
    shells: Mapping[str, Shell]
    at_once: int

    async def done(self) -> bool:
        return not await find_shared(self.shells, at_once=self.at_once)

    async def run(self) -> None:
        """CONFLICT, with who has what in common with whom."""
        shared = await find_shared(self.shells, at_once=self.at_once)
        if not shared:
            return
        lines = [str(one) for one in shared[:_SHOWN]]
        lines += [f"and {len(shared) - _SHOWN} more"] if shared[_SHOWN:] else []
        raise CaasError(
            Code.CONFLICT,
            "containers that must differ do not: " + "; ".join(lines),
            hint="make all but one of each anew: take them out of the file, `caas up FILE --remove`, put them back",
        )

    async def undo(self) -> None:
        """It changes nothing."""


def make_unique_step(shells: Mapping[str, Shell], *, needs: Iterable[str] = (), at_once: int = AT_ONCE) -> UniqueStep:
    """The step `cluster/unique` for the containers of *shells*, by name: all of a cluster's, clones or not."""
    return UniqueStep(
        id=STEP,
        title=f"{len(shells)} containers differ in what makes each a machine of its own",
        needs=frozenset(needs),
        shells=shells,
        at_once=at_once,
    )
