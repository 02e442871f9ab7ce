"""A /sys that shows this process's own network namespace.

liblxc asks /sys/class/net whether a bridge is there, and sysfs shows the network namespace it was mounted in. A lab's
agent is entered into a namespace by nsenter(1), which leaves /sys as it was; `ip netns exec` mounts a new one, and
hides the cgroups. So a worker mounts a new one for itself and binds what lay on the old one back in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 8, 0x1000, 0x4000, 1 << 19  # linux/mount.h


def is_sysfs_ours() -> bool:
    """Whether /sys shows this process's network namespace: a sysfs mounted now is then the same one (st_dev), and
    refused where nothing covers that one (EBUSY: the same file system on the same mount point).

    Tried in a child, whose mount namespace goes with it. Process 1's namespace may not be readable, so it is not asked.
    """
    pid = os.fork()
    if pid == 0:
        status = 2
        with contextlib.suppress(BaseException):
            before = os.stat("/sys").st_dev
            try:
                enter_own_sysfs()
                status = 0 if os.stat("/sys").st_dev == before else 1
            except OSError as exc:
                status = 0 if exc.errno == errno.EBUSY else 2
        os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def enter_own_sysfs() -> None:
    """Give this process (of one thread) a mount namespace whose /sys shows its network namespace. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    # Slave: what the machine mounts and unmounts later is still seen here, and nothing of ours is seen there.
    _mount(libc, None, "/", None, _MS_REC | _MS_SLAVE)
    held = {point: os.open(point, os.O_PATH) for point in _mounts_on_sys()}
    _mount(libc, "sysfs", "/sys", "sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for point, fd in held.items():
        _mount(libc, f"/proc/self/fd/{fd}", point, None, _MS_BIND | _MS_REC)
        os.close(fd)


def _mounts_on_sys() -> list[str]:
    """The mounts directly on /sys; those within them come along (MS_REC)."""
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    below = sorted(point for point in points if point.startswith("/sys/"))
    return [point for point in below if not any(point.startswith(other + "/") for other in below)]


def _mount(libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int) -> None:
    arguments = (source and source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None)
    if libc.mount(*arguments):
        raise OSError(ctypes.get_errno(), f"mount {target}")
