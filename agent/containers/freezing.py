"""Holding a running container still for a moment, by the freezer of its cgroup (v1: freezer.state, v2: cgroup.freeze).

Not by liblxc's freeze(): it looks again only after a second where the kernel needs a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.containers.cgroups import Hierarchy, find_hierarchies
from proto.errors import CaasError, Code

#: In front of the name of a container that we froze, in its lxcpath: whoever finds one thaws that container.
NOTE = ".frozen-"
_POLL = 0.001
#: Processes that wait for a disk freeze when it has answered (seconds).
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Switch:
    """Where a cgroup is frozen: what to write, and what says that it is."""

    control: Path
    on: str
    off: str
    shown: Path
    frozen: str


class Freezer:
    """Freezes containers of one lxcpath; *base* is our folder's name in each hierarchy (config.cgroup_base)."""

    def __init__(self, lxcpath: Path, base: str, hierarchies: tuple[Hierarchy, ...] | None = None) -> None:
        self._lxcpath = lxcpath
        self._base = base
        self._hierarchies = hierarchies if hierarchies is not None else find_hierarchies()

    @contextlib.contextmanager
    def still(self, name: str) -> Iterator[None]:
        """None of its processes runs inside the block. Thawed however the block ends; see thaw_left for a kill.

        UNSUPPORTED where its cgroup cannot be frozen, BUSY where a process does not freeze.
        """
        note = self._note(name)
        if self.is_frozen(name) and not note.exists():
            yield  # by somebody else, who will thaw it
            return
        note.touch()
        try:
            self._freeze(name)
            yield
        finally:
            self.thaw_left(name)

    def thaw_left(self, name: str) -> bool:
        """Thaw *name* if we froze it; whether we had. Its cgroup may be gone."""
        note = self._note(name)
        if not note.exists():
            return False
        if switch := self._switch(name):
            with contextlib.suppress(FileNotFoundError):
                switch.control.write_text(switch.off)
        note.unlink(missing_ok=True)
        return True

    def left(self) -> list[str]:
        """Containers that somebody froze in our name and did not thaw."""
        return [note.name.removeprefix(NOTE) for note in self._lxcpath.glob(f"{NOTE}*")]

    def is_frozen(self, name: str) -> bool:
        """Whether every process of *name* is frozen; False where it has no cgroup."""
        switch = self._switch(name)
        return switch is not None and _shows(switch)

    def _freeze(self, name: str) -> None:
        switch = self._switch(name)
        if switch is None:
            raise CaasError(
                Code.UNSUPPORTED,
                f"container {name}: it runs, and its cgroup has no freezer to hold it still with",
                hint="mount the freezer controller, or stop the container",
            )
        deadline = time.monotonic() + _PATIENCE
        while True:
            switch.control.write_text(switch.on)  # again: v1 may miss a process that was just forked
            if _shows(switch):
                return
            if time.monotonic() > deadline:
                raise CaasError(
                    Code.BUSY,
                    f"container {name}: not frozen within {_PATIENCE:g} s: a process in it waits in the kernel",
                    hint="try again, or stop the container",
                )
            time.sleep(_POLL)

    def _switch(self, name: str) -> _Switch | None:
        for one in sorted(self._hierarchies, key=lambda hierarchy: hierarchy.version):
            folder = one.path / self._base / name
            if one.version == 1 and "freezer" in one.controllers and (state := folder / "freezer.state").exists():
                return _Switch(control=state, on="FROZEN", off="THAWED", shown=state, frozen="FROZEN")
            if one.version == 2 and (control := folder / "cgroup.freeze").exists():
                return _Switch(control=control, on="1", off="0", shown=folder / "cgroup.events", frozen="frozen 1")
        return None

    def _note(self, name: str) -> Path:
        return self._lxcpath / f"{NOTE}{name}"


def _shows(switch: _Switch) -> bool:
    try:
        return switch.frozen in switch.shown.read_text().splitlines()
    except FileNotFoundError:
        return False
