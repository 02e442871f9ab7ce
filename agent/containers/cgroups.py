"""The cgroups of our containers, v1 and v2: memory, what still runs in them, and removing what is left.

Only what lies below our own folder (`config.cgroup_base`) in each hierarchy is ever looked at or removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from proto.errors import CaasError, Code

_POLL = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted cgroup hierarchy: where containers' folders lie in it, and its controllers ("" for v2 as such)."""

    path: Path
    version: int
    controllers: frozenset[str]


def find_hierarchies() -> tuple[Hierarchy, ...]:
    """Every cgroup hierarchy mounted here. liblxc puts containers below the cgroup of process 1 (cgroups(7))."""
    initial = _cgroups_of(1)
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        point = Path(before.split()[4])
        if kind == "cgroup2":
            below = initial.get("", "/")
            controllers = (point / "cgroup.controllers").read_text().split()
            found.append(Hierarchy(path=_join(point, below), version=2, controllers=frozenset(controllers)))
        elif kind == "cgroup":
            names = frozenset(options.split(",")) & initial.keys()
            below = next((initial[name] for name in names), "/")
            found.append(Hierarchy(path=_join(point, below), version=1, controllers=names))
    return tuple(found)


def _join(point: Path, below: str) -> Path:
    return point / below.removesuffix("/init.scope").lstrip("/")


def _cgroups_of(pid: int) -> dict[str, str]:
    """{controller: path}; v2 has the controller ""."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


class Cgroups:
    """The cgroups of one lxcpath; *base* is our folder's name in each hierarchy."""

    def __init__(self, base: str, hierarchies: tuple[Hierarchy, ...] | None = None) -> None:
        self.hierarchies = hierarchies if hierarchies is not None else find_hierarchies()
        self._base = base
        self._memory = next(
            (one for one in self.hierarchies if one.version == 1 and "memory" in one.controllers),
            next((one for one in self.hierarchies if one.version == 2), None),
        )

    def memory_bytes(self, name: str) -> int:
        """What container *name* uses, page cache included; 0 where it does not run or is not accounted."""
        if self._memory is None:
            return 0
        file = "memory.usage_in_bytes" if self._memory.version == 1 else "memory.current"
        try:
            with open(f"{self._memory.path}/{self._base}/{name}/{file}", encoding="ascii") as opened:
                return int(opened.read())
        except (OSError, ValueError):
            return 0

    def _folders(self, name: str) -> list[Path]:
        parts = (name, f"{name}.monitor", f"{name}.pivot")
        all_of_them = (one.path / self._base / part for one in self.hierarchies for part in parts)
        return [folder for folder in all_of_them if folder.is_dir()]

    def processes(self, name: str) -> set[int]:
        """The processes of container *name* and of its monitor, as this PID namespace numbers them."""
        found: set[int] = set()
        for top in self._folders(name):
            for folder, _, _ in os.walk(top):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
        return found - {0, os.getpid()}

    def remove(self, name: str, *, patience: float, deadline: float) -> int:
        """Remove the cgroups of a container that has stopped; returns how many were removed.

        Processes still there after *patience* seconds are killed. BUSY where any is left after *deadline* seconds.
        """
        began = time.monotonic()
        removed = 0
        while True:
            removed += self._remove_empty(name)
            if not self._folders(name):
                break
            waited = time.monotonic() - began
            if waited > deadline:
                left = ", ".join(map(str, sorted(self.processes(name)))) or "none"
                raise CaasError(
                    Code.BUSY,
                    f"container {name}: its cgroups cannot be removed; processes in them: {left}",
                    hint="try again",
                )
            if waited > patience:
                for pid in self.processes(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL)
        return removed

    def _remove_empty(self, name: str) -> int:
        removed = 0
        for top in self._folders(name):
            for folder, _, _ in os.walk(top, topdown=False):
                removed += _remove_folder(Path(folder))
        return removed

    def remove_base(self) -> None:
        """Remove our folder in each hierarchy where no container's is left."""
        for one in self.hierarchies:
            with contextlib.suppress(OSError):
                (one.path / self._base).rmdir()


def _remove_folder(folder: Path) -> int:
    try:
        folder.rmdir()
    except OSError as exc:
        if exc.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY):
            raise
        return 0
    return 1
