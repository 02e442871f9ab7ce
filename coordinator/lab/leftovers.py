"""What `lab down` ends and removes itself, when those who made it do not: container processes, mounts, cgroups.

Only what points into the lab's own state folder is touched: a monitor by its lxcpath, a container's processes by
the root file system they run on, a mount by its source or target, a cgroup by the name of one of the lab's
containers, once nothing runs in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from coordinator.lab.places import Places
from coordinator.lab.processes import Process, all_pids, find_process
from proto.errors import CaasError, Code

PROC = Path("/proc")
MOUNTINFO = PROC / "self" / "mountinfo"
CGROUPS = Path("/sys/fs/cgroup")
_MNT_DETACH = 2  # linux/mount.h
_CGROUP_WAIT = 5.0
_MONITOR = b"[lxc monitor] "
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo (proc(5)): what is mounted where."""

    target: Path
    source: str
    root: str
    options: str

    def concerns(self, folder: Path) -> bool:
        """Whether it lies below *folder*, or is made of something below it (an overlay's upper folder, a bind)."""
        below = f"{folder}/"
        return f"{self.target}/".startswith(below) or any(
            below in text for text in (f"{self.source}/", f"{self.root}/", self.options)
        )


def container_processes(places: Places) -> tuple[tuple[Process, ...], tuple[Process, ...]]:
    """The processes whose root file system is one of the lab's containers', and the monitors of those containers."""
    inside, monitors = [], []
    folders = _spellings(places.state)
    for pid in all_pids():
        with contextlib.suppress(OSError):
            process = find_process(pid)
            if process is None:
                continue
            command = (PROC / str(pid) / "cmdline").read_bytes()
            if command.startswith(_MONITOR) and f"{places.state}/".encode() in command:
                monitors.append(process)
            elif _root_is_in(pid, folders):
                inside.append(process)
    return tuple(inside), tuple(monitors)


def container_names(places: Places) -> tuple[str, ...]:
    """LXC's names of every container that any of the lab's hosts has files of."""
    return tuple(sorted({path.name for path in places.state.glob("machines/*/state/containers/*") if path.is_dir()}))


def unmount(folder: Path) -> int:
    """Detach every mount that concerns *folder*, the last made first; returns how many."""
    found = [mount for mount in read_mounts(MOUNTINFO) if mount.concerns(folder)]
    for mount in reversed(found):
        if _libc.umount2(os.fsencode(mount.target), _MNT_DETACH):
            error = os.strerror(ctypes.get_errno())
            raise CaasError(Code.FAILED, f"umount {mount.target}: {error}")
    return len(found)


def check_no_mounts(folder: Path) -> None:
    """FAILED where something is mounted below *folder*: removing its files would reach into what is mounted."""
    for mount in read_mounts(MOUNTINFO):
        if mount.target.is_relative_to(folder):
            raise CaasError(Code.FAILED, f"{mount.target} is a mount point", hint=f"umount {mount.target}")


def cgroup_names(processes: tuple[Process, ...]) -> frozenset[str]:
    """The names of LXC's cgroups that *processes* are in, whatever hierarchy."""
    found: set[str] = set()
    for process in processes:
        with contextlib.suppress(OSError):
            text = (PROC / str(process.pid) / "cgroup").read_text()
            found.update(re.findall(r"/(lxc\.(?:payload|monitor|pivot)\.[^/\n]+)", text))
    return frozenset(found)


def find_cgroups(names: frozenset[str]) -> tuple[Path, ...]:
    """The cgroups called *names* in every hierarchy, and all below them, deepest first."""
    tops = [Path(folder) / name for folder, children, _ in os.walk(CGROUPS) for name in _take_matching(children, names)]
    below = [Path(folder) for top in tops for folder, _, _ in os.walk(top)]
    return tuple(sorted(below, key=lambda path: len(path.parts), reverse=True))


def stale_cgroup_names(containers: tuple[str, ...]) -> frozenset[str]:
    """The names of cgroups that LXC may have left of these containers: nothing runs in them.

    It calls them lxc.payload.NAME and lxc.monitor.NAME, and appends -1, -2, … where that is taken (lxc 5, cgfsng.c).
    """
    if not containers:
        return frozenset()
    pattern = re.compile(rf"lxc\.(payload|monitor|pivot)\.({'|'.join(map(re.escape, containers))})(-\d+)?")
    found = {name for _, children, _ in os.walk(CGROUPS) for name in children if pattern.fullmatch(name)}
    return frozenset(name for name in found if not any(map(_is_populated, find_cgroups(frozenset({name})))))


def remove_cgroups(cgroups: tuple[Path, ...], *, wait: float = _CGROUP_WAIT) -> tuple[Path, ...]:
    """Remove those in which nothing runs; returns those that are still there after *wait* seconds."""
    deadline = time.monotonic() + wait
    left = cgroups
    while left:
        for path in left:
            # EBUSY: a process is in it, or has only just left
            with contextlib.suppress(OSError):
                path.rmdir()
        left = tuple(path for path in left if path.is_dir())
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def read_mounts(path: Path) -> tuple[Mount, ...]:
    """The mounts that *path*, a mountinfo file, lists."""
    mounts = []
    for line in path.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        mounts.append(
            Mount(
                target=Path(_unescape(fields[4])),
                source=_unescape(rest[1]),
                root=_unescape(fields[3]),
                options=_unescape(" ".join(rest[2:])),
            )
        )
    return tuple(mounts)


def _take_matching(children: list[str], names: frozenset[str]) -> list[str]:
    """The names that match, taken out of *children*, so that os.walk does not go below them a second time."""
    found = [name for name in children if name in names]
    children[:] = [name for name in children if name not in names]
    return found


def _is_populated(cgroup: Path) -> bool:
    try:
        return bool((cgroup / "cgroup.procs").read_text().strip())
    except FileNotFoundError:
        return False


def _root_is_in(pid: int, folders: frozenset[str]) -> bool:
    for line in (PROC / str(pid) / "mountinfo").read_text(errors="replace").splitlines():
        if line.split(" ", 5)[4] == "/" and any(folder in line for folder in folders):
            return True
    return False


def _spellings(folder: Path) -> frozenset[str]:
    """How mountinfo writes what is below *folder*: by its path, and by the path within its own file system."""
    found = {f"{folder}/"}
    covering = [mount for mount in read_mounts(MOUNTINFO) if folder.is_relative_to(mount.target)]
    if covering:
        nearest = max(covering, key=lambda mount: len(mount.target.parts))
        found.add(f"{Path(nearest.root) / folder.relative_to(nearest.target)}/")
    return frozenset(found)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
