"""What systemd hears of a daemon, on a socket that plays its part (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto.transport.notify import serving, tell_systemd


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


async def test_ready_alive_and_stopping_in_this_order(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    async with serving():
        assert systemd.recv(100) == b"READY=1"
        for _ in range(3):
            assert await asyncio.to_thread(systemd.recv, 100) == b"WATCHDOG=1"
    heard = {systemd.recv(100)}
    while b"STOPPING=1" not in heard:
        heard.add(systemd.recv(100))
    assert heard <= {b"WATCHDOG=1", b"STOPPING=1"}


async def test_a_watchdog_of_another_process_and_none_are_left_alone(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    async with serving():
        await asyncio.sleep(0.02)
    monkeypatch.delenv("WATCHDOG_USEC")
    monkeypatch.delenv("WATCHDOG_PID")
    async with serving():
        await asyncio.sleep(0.02)
    assert [systemd.recv(100) for _ in range(4)] == [b"READY=1", b"STOPPING=1"] * 2


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"caas-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        tell_systemd("READY=1")
        assert listening.recv(100) == b"READY=1"


async def test_nobody_is_told_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    async with serving():
        pass
