"""Containers that share an identity are found and named; those that have none yet are not."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.steps import Completed
from coordinator.unique import _SCRIPT, Shared, find_shared, fingerprint, make_unique_step
from proto.errors import CaasError, Code

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7xHn7T5VQyCiOymWIBzVYHLeUrMDSKsqyeAhCXc3aJ"


@dataclass
class Box:
    """A Shell whose container has *has*: lines of KIND=VALUE."""

    container: str
    has: str
    asked: list[str] = field(default_factory=list)
    failure: CaasError | None = None
    busy: list[int] = field(default_factory=lambda: [0, 0])

    async def inspect(self, wanted: Mapping[str, Sequence[str]]) -> None:
        raise AssertionError("identities are for programs in it to read")

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        self.asked.append(self.container)
        self.busy[0] += 1
        self.busy[1] = max(self.busy)
        await asyncio.sleep(0)
        self.busy[0] -= 1
        if self.failure:
            raise self.failure
        return Completed(status=0, stdout=self.has.encode(), stderr=b"")


def boxes(*has: str) -> Mapping[str, Box]:
    return {f"c{number}": Box(f"c{number}", lines) for number, lines in enumerate(has)}


async def test_all_that_differs_is_fine_and_looked_at_once_each() -> None:
    shells = boxes("machine-id=a\nMAC=02:01\nhost name=c0\n", "machine-id=b\nMAC=02:02\nhost name=c1\n")
    step = make_unique_step(shells, needs=["apply:host1"])
    assert (step.id, step.needs) == ("cluster/unique", frozenset({"apply:host1"}))
    assert await step.done()
    assert [box.asked for box in shells.values()] == [["c0"], ["c1"]]


async def test_who_shares_what_is_said() -> None:
    key = f"SSH host key={KEY} root@c0\n"
    shells = boxes(f"machine-id=a\n{key}", "machine-id=b\n", f"machine-id=a\n{key}")
    assert await find_shared(shells) == (
        Shared(kind="SSH host key", value=fingerprint(KEY), containers=("c0", "c2")),
        Shared(kind="machine-id", value="a", containers=("c0", "c2")),
    )
    step = make_unique_step(shells)
    assert not await step.done()
    with pytest.raises(CaasError, match=r"c0, c2 have the same machine-id \(a\)") as failure:
        await step.run()
    assert failure.value.code is Code.CONFLICT
    assert "--remove" in failure.value.hint


async def test_a_container_may_say_the_same_twice() -> None:
    assert await find_shared(boxes("nova compute_id=a\nnova compute_id=a\n", "")) == ()


async def test_many_are_summed_up() -> None:
    lines = "".join(f"kind{number}=a\n" for number in range(9))
    with pytest.raises(CaasError, match="and 3 more"):
        await make_unique_step(boxes(lines, lines)).run()


async def test_one_that_cannot_be_looked_into_is_an_error() -> None:
    shells = boxes("", "")
    shells["c1"].failure = CaasError(Code.NOT_FOUND, "c1 does not run")
    with pytest.raises(CaasError, match="c1 does not run"):
        await make_unique_step(shells).done()


async def test_only_so_many_at_once() -> None:
    shells = boxes(*[""] * 40)
    busy = [0, 0]
    for box in shells.values():
        box.busy = busy
    await find_shared(shells, at_once=5)
    assert busy[1] == 5


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_the_script_is_one_that_any_shell_runs(shell: str, tmp_path: Path) -> None:
    """With its paths below a folder: empty and missing files say nothing, a missing newline is no matter."""
    files = {
        "/etc/machine-id": "",
        "/var/lib/nova/compute_id": "5e1f",
        "/etc/hostname": "c1\n",
        "/etc/ssh/ssh_host_a_key.pub": f"{KEY} root@c1\n",
        "/etc/ssh/ssh_host_b_key.pub": "ssh-rsa BBBB root@c1\n",
    }
    for name, text in files.items():
        (tmp_path / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name.lstrip("/")).write_text(text)
    script = _SCRIPT
    for top in ("/etc/", "/var/", "/opt/", "/proc/", "/sys/"):
        script = script.replace(f" {top}", f" {tmp_path}{top}")
    done = subprocess.run([*shell.split(), "-s"], input=script, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "/etc/hostname=c1",
        "nova compute_id=5e1f",
        f"SSH host key={KEY} root@c1",
        "SSH host key=ssh-rsa BBBB root@c1",
    ]


def test_a_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{KEY} root@c1\n")
    try:
        shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key.pub")], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no ssh-keygen here")
    assert fingerprint(f"{KEY} root@c1").split()[1] == shown.stdout.decode().split()[1]
    assert fingerprint("nonsense") == "nonsense"
