"""What `lab down` ends and removes itself, when those who made it do not: container processes, mounts, cgroups.

Only what is the lab's own is touched: processes in the cgroup folders of its hosts' containers, those folders, and
mounts with their source or target in the lab's state folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.lab.places import Places
from coordinator.lab.processes import Process, all_pids, find_process
from proto.errors import CaasError, Code

PROC = Path("/proc")
MOUNTINFO = PROC / "self" / "mountinfo"
CGROUPS = Path("/sys/fs/cgroup")
LXC_LOCKS = Path("/run/lxc/lock")  # RUNTIME_PATH/lxc/lock, lxc 5 lxclock.c
_MNT_DETACH = 2  # linux/mount.h
_CGROUP_WAIT = 5.0
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


def cgroup_folder(lxcpath: Path) -> str:
    """The name of the folder that an agent's containers in *lxcpath* have in each hierarchy (docs/architecture.md)."""
    return f"caas-{hashlib.sha256(str(lxcpath).encode()).hexdigest()[:12]}"


def find_cgroups(places: Places) -> tuple[Path, ...]:
    """The cgroups of the containers of the lab's hosts, in every hierarchy, deepest first."""
    names = {cgroup_folder(machine / "state" / "containers") for machine in places.state.glob("machines/*")}
    tops = [Path(folder) / name for folder, children, _ in os.walk(CGROUPS) for name in names.intersection(children)]
    below = [Path(folder) for top in tops for folder, _, _ in os.walk(top)]
    return tuple(sorted(below, key=lambda path: len(path.parts), reverse=True))


def container_processes(places: Places) -> tuple[tuple[Process, ...], tuple[Process, ...]]:
    """The processes in the lab's containers, and the monitors of those containers."""
    inside: set[Process] = set()
    monitors: set[Process] = set()
    mine = set(all_pids())
    for cgroup in find_cgroups(places):
        with contextlib.suppress(OSError):
            for pid in map(int, (cgroup / "cgroup.procs").read_text().split()):
                if pid in mine and (process := find_process(pid)) is not None:
                    (monitors if cgroup.name.endswith(".monitor") else inside).add(process)
    return tuple(inside - monitors), tuple(monitors)


def residents(namespaces: Mapping[int, str]) -> tuple[str, ...]:
    """Who lives in the network namespaces of these inodes: "pid 77 (tcpdump) in lab-trunk"."""
    found = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            inode = (PROC / str(pid) / "ns/net").stat().st_ino
            if inode in namespaces:
                command = (PROC / str(pid) / "comm").read_text().strip()
                found.append(f"pid {pid} ({command}) in {namespaces[inode]}")
    return tuple(found)


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


def remove_lxc_locks(folder: Path) -> None:
    """Remove the lock files that liblxc keeps for every lxcpath below *folder*, and folders that are empty then."""
    locks = LXC_LOCKS / folder.relative_to("/")
    shutil.rmtree(locks, ignore_errors=True)
    for parent in locks.parents:
        if parent == LXC_LOCKS or not parent.is_relative_to(LXC_LOCKS):
            break
        with contextlib.suppress(OSError):
            parent.rmdir()


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


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
