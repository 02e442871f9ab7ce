"""A Debian container with sshd, git and sudo, and the coordinator's way into it without a coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.containers.exec import ExecDoor
from coordinator.steps import Completed
from proto.errors import CaasError, Code
from proto.model import Container

BOOT_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class DoorShell:
    """coordinator.steps.Shell over the door to commands."""

    door: ExecDoor
    one: Container

    @property
    def container(self) -> str:
        return self.one.hostname

    async def inspect(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Only by programs in it."""

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        done = await self.door.run(self.one.name, argv, stdin=stdin, timeout=timeout)
        if check and done.status != 0:
            raise CaasError(Code.FAILED, f"{argv[0]} ended with {done.status}: {(done.stderr or done.stdout).decode()}")
        return Completed(status=done.status, stdout=done.stdout, stderr=done.stderr)

    async def read(self, script: str, *, check: bool = True) -> str:
        """What *script* prints, without spaces around it."""
        return (await self.run(["sh", "-c", script], check=check)).stdout.decode().strip()

    async def booted(self) -> None:
        """Wait until systemd has done what it does at boot, without a unit that failed."""
        end = time.monotonic() + BOOT_DEADLINE
        early = ("", "offline", "initializing", "starting")
        while (said := await self.read("systemctl is-system-running", check=False)) in early:
            assert time.monotonic() < end, f"{self.container}: after {BOOT_DEADLINE} s: {said}"
            await asyncio.sleep(0.05)
        assert said == "running", await self.read("systemctl --failed --no-legend --plain")
