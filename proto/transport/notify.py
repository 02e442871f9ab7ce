"""What systemd is told of a daemon (sd_notify(3)): that it serves, that it is alive, that it ends.

Without $NOTIFY_SOCKET, as in labs and tests, nobody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

_USEC = 1_000_000


def tell_systemd(state: str) -> None:
    """Send *state* ("READY=1") to who started this process. OSError where its socket is gone."""
    if not (address := os.environ.get("NOTIFY_SOCKET", "")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def watchdog_seconds() -> float:
    """How often to tell systemd: half of WatchdogSec= (sd_watchdog_enabled(3)); 0: it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / _USEC / 2


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[None]:
    """READY=1 at the beginning, STOPPING=1 at the end, WATCHDOG=1 in between while the loop turns."""
    tell_systemd("READY=1")
    watchdog = asyncio.create_task(_be_alive(watchdog_seconds()))
    try:
        yield
    finally:
        watchdog.cancel()
        tell_systemd("STOPPING=1")


async def _be_alive(interval: float) -> None:
    while interval > 0:
        tell_systemd("WATCHDOG=1")
        await asyncio.sleep(interval)
