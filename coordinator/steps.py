"""Steps: what a bring-up consists of once the hosts are as desired.

A step looks instead of remembering: `done()` asks the container. `undo()` must cope with a `run()` that died
half-way. A step's id is stable, so that a journal can name it: FAMILY/WHAT:CONTAINER.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proto.errors import CaasError, Code


class Step(Protocol):
    """One piece of work with a name, what must be done before it, and a way to see whether it is done."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str:
        """What people read while it runs: "keystone: bootstrap"."""

    @property
    def needs(self) -> frozenset[str]:
        """Ids of steps that must be done before; ids that are not in the set are an error."""

    async def done(self) -> bool: ...
    async def run(self) -> None: ...
    async def undo(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ended in a container."""

    status: int
    stdout: bytes
    stderr: bytes


class Shell(Protocol):
    """A way to run commands in one container, as root, with a clean environment (PATH, HOME, LANG=C.UTF-8)."""

    @property
    def container(self) -> str: ...

    async def inspect(self, wanted: Mapping[str, Sequence[str]]) -> Mapping[str, Any] | None:
        """What it shows of files (paths), units (services' names) and ports (HOST:PORT) as seen from outside it, in
        the shape of coordinator/nova/inside/probe.py. None where only a program in it can look."""

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        """Run *argv* (no shell) and wait. With check, a status other than 0 raises FAILED with the last lines."""


def make_waves(steps: Iterable[Step]) -> tuple[tuple[str, ...], ...]:
    """The ids in dependency waves: each wave needs only earlier ones. INVALID names a cycle or an unknown id."""
    needs = {step.id: set(step.needs) for step in steps}
    for step, wanted in needs.items():
        if unknown := wanted - needs.keys():
            raise CaasError(Code.INVALID, f"step {step} needs {', '.join(sorted(unknown))}: no such step")
    waves: list[tuple[str, ...]] = []
    placed: set[str] = set()
    while len(placed) < len(needs):
        wave = tuple(step for step, wanted in needs.items() if step not in placed and wanted <= placed)
        if not wave:
            left = sorted(needs.keys() - placed)
            raise CaasError(Code.INVALID, f"steps need each other: {', '.join(left)}")
        waves.append(wave)
        placed.update(wave)
    return tuple(waves)
