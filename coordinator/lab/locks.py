"""Locks that vanish with their holder (flock(2)) and leave no file behind once they are let go for good."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from proto.errors import CaasError, Code


@contextlib.contextmanager
def locked(path: Path, *, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file *path*; BUSY after *wait* seconds of somebody else holding it. *what* names the object."""
    deadline = time.monotonic() + wait
    while (descriptor := _take(path)) is None:
        if time.monotonic() >= deadline:
            raise CaasError(Code.BUSY, f"{what} is being changed by another process{_holder(path)}", hint="try again")
        time.sleep(0.05)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for this inode sees that it is not the path's any more.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int | None:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _open(path: Path) -> int:
    while True:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Another lab's `down` may remove the empty folder between these two lines.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _holder(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return ""
    return f" (pid {text})" if text.isdigit() else ""
