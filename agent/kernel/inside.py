"""Running something inside another network namespace without moving the caller there.

setns(2) sticks to its thread, so it is called only in a thread made for it, which is thrown away after or stays there.
/proc/sys/net and child processes follow the thread that looks or forks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from proto.errors import CaasError, Code

CLONE_NEWNET = 0x40000000  # linux/sched.h
NETNS_RUN = Path("/run/netns")
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def netns_path(netns: str) -> Path:
    """The file of the namespace *netns*: a name that `ip netns` lists, or a path such as /proc/PID/ns/net."""
    return Path(netns) if "/" in netns else NETNS_RUN / netns


def enter_netns(netns: str) -> None:
    """Move the calling thread into *netns* for good. NOT_FOUND where there is none, FAILED without CAP_SYS_ADMIN."""
    path = netns_path(netns)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise CaasError(Code.NOT_FOUND, f"network namespace {netns}: {path}: {exc.strerror}") from exc
    try:
        if _libc.setns(handle, CLONE_NEWNET):
            error = ctypes.get_errno()
            raise CaasError(Code.FAILED, f"network namespace {netns}: setns: {os.strerror(error)}")
    finally:
        os.close(handle)


def run_inside(netns: str | None, function: Callable[[], T]) -> T:
    """*function()* as seen from *netns* (None: from where the caller is). Its exception is the caller's."""
    if netns is None:
        return function()
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter_netns(netns)
            results.append(function())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=body, name=f"inside {netns}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


class Resident:
    """A thread that lives in one network namespace, the caller's or *netns*, and runs one call after the other."""

    def __init__(self, netns: str | None, *, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        try:
            # The thread starts here: it is born in the namespace of the one that starts it.
            self.run(lambda: enter_netns(netns) if netns is not None else None)
        except BaseException:
            self.close()
            raise

    def run(self, function: Callable[[], T]) -> T:
        """*function()* in the thread, after what came before. Its exception is the caller's. EBADF once closed."""
        try:
            future = self._executor.submit(function)
        except RuntimeError as exc:
            raise OSError(errno.EBADF, "it is closed") from exc
        return future.result()

    def close(self) -> None:
        """End the thread when it has done what it was given; a second time changes nothing."""
        self._executor.shutdown()
