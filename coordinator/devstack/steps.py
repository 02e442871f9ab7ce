"""Steps of containers that stack.sh sets up: in the first of its kind, and what its clones need beside the copy.

Nothing else of caas's looks at what stack.sh has made: its passwords, services and errors are its own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from coordinator.config import ClusterFile, ContainerSpec
from coordinator.devstack import inside
from coordinator.steps import Shell, Step
from proto.errors import CaasError, Code

PYTHON = ("/usr/bin/python3", "-I", "-S", "-")
LOOK_SECONDS = 30.0
#: Rally's own patience with a command (its SSH timed out after an hour).
STACK_SECONDS = 3600.0
START_SECONDS = 120.0


async def _run(shell: Shell, job: Mapping[str, Any], *, seconds: float) -> bytes:
    """Run inside.py's main() with *job* in the container; what it printed."""
    program = f"{inspect.getsource(inside)}\n\nmain(json.loads({json.dumps(json.dumps(job))}))\n"
    return (await shell.run(PYTHON, stdin=program.encode(), timeout=seconds)).stdout


async def _look(shell: Shell) -> dict[str, Any]:
    try:
        seen: dict[str, Any] = json.loads(await _run(shell, {"do": "look"}, seconds=LOOK_SECONDS))
    except ValueError as exc:
        raise CaasError(Code.FAILED, f"{shell.container}: looking at DevStack gave nonsense") from exc
    return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStep:
    """stack.sh of one clone of a repository has ended well, with this local.conf."""

    id: str
    title: str
    needs: frozenset[str]
    shell: Shell
    repo: str
    branch: str
    local_conf: str
    nameservers: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of all that stack.sh is given. A branch that has moved on does not count: nothing runs for an hour then."""
        text = json.dumps([self.repo, self.branch, self.local_conf])
        return hashlib.sha256(text.encode()).hexdigest()

    async def done(self) -> bool:
        return bool((await _look(self.shell))["digest"] == self.digest)

    async def run(self) -> None:
        job = {
            "do": "stack",
            "repo": self.repo,
            "branch": self.branch,
            "local_conf": self.local_conf,
            "nameservers": self.nameservers,
            "digest": self.digest,
        }
        await _run(self.shell, job, seconds=STACK_SECONDS)

    async def undo(self) -> None:
        """What stack.sh has done is its own; the next run goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStep:
    """LxcEngine's start script: nova has the address of this container, not of the one it was cloned from, and runs.

    Done where stack.sh left no nova.conf.
    """

    id: str
    title: str
    needs: frozenset[str]
    shell: Shell
    address: IPv4Address

    async def done(self) -> bool:
        seen = await _look(self.shell)
        return seen["my_ip"] is None or (seen["my_ip"] == str(self.address) and all(seen["services"].values()))

    async def run(self) -> None:
        await _run(self.shell, {"do": "start", "address": str(self.address)}, seconds=START_SECONDS)

    async def undo(self) -> None:
        """A service that runs harms nobody."""


def make_devstack_steps(
    file: ClusterFile,
    shells: Mapping[str, Shell],
    addresses: Mapping[str, IPv4Address],
    nameservers: Mapping[str, Sequence[str]],
) -> tuple[Step, ...]:
    """For each container of *file* with `devstack`: stack.sh, or where it is a clone what comes after the copy.

    *shells* and *addresses* are by container, *nameservers* by host. A container that has clones gets the
    same step as they, as with Rally.
    """
    sources = {spec.clone_of for spec in file.containers.values()}
    # MultihostEngine's controller, whose address nodes are given, comes first in the file.
    controller = next(iter(file.containers.values()))
    steps: list[Step] = []
    for spec in file.containers.values():
        if spec.devstack is None:
            continue
        if not spec.clone_of:
            waits = spec.devstack.is_node and controller.devstack is not None
            steps.append(
                StackStep(
                    id=_stack_id(spec.name),
                    title=f"devstack: stack.sh on {spec.name}",
                    # Rally set the nodes up when the controller was.
                    needs=frozenset({_stack_id(controller.name)}) if waits else frozenset(),
                    shell=shells[spec.name],
                    repo=spec.devstack.repo,
                    branch=spec.devstack.branch,
                    local_conf=spec.devstack.render(addresses[controller.name]),
                    nameservers=tuple(nameservers.get(spec.host, ())),
                )
            )
        if spec.clone_of or spec.name in sources:
            steps.append(_make_start(spec, shells, addresses))
    return tuple(steps)


def _stack_id(name: str) -> str:
    return f"devstack/stack:{name}"


def _make_start(spec: ContainerSpec, shells: Mapping[str, Shell], addresses: Mapping[str, IPv4Address]) -> StartStep:
    return StartStep(
        id=f"devstack/start:{spec.name}",
        title=f"devstack: nova's address and services on {spec.name}",
        needs=frozenset({_stack_id(spec.clone_of or spec.name)}),
        shell=shells[spec.name],
        address=addresses[spec.name],
    )
