"""Running something inside another network namespace without moving the caller there.

setns(2) sticks to its thread, so it is called only in a thread made for it, which is thrown away after.
/proc/sys/net and child processes follow the thread that looks or forks.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
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
