"""A container with Debian's systemd boots cleanly, is itself, and shuts down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from proto.model import Container

BOOT_DEADLINE = 30.0


@pytest.fixture(scope="module")
def debian() -> Path:
    """The machine's own images, with test-systemd among them: built once, in about 20 s, from Debian's mirror."""
    build_image(ImageStore(IMAGES), "test-systemd")
    return IMAGES


@pytest.fixture
async def booted(
    debian: Path, open_door: Callable[..., LxcDoor], state: Path, container: Callable[..., Container]
) -> AsyncIterator[tuple[LxcDoor, ExecDoor, Container]]:
    door, one = open_door(images=debian, stop_patience=30), container(image="test-systemd")
    commands = ExecDoor(state)
    try:
        door.create(one)
        door.start(one)
        yield door, commands, one
    finally:
        commands.close()


async def state_of(commands: ExecDoor, name: str) -> str:
    """What systemctl says once systemd has done what it does at boot; degraded names the failed units."""
    end = time.monotonic() + BOOT_DEADLINE
    while True:
        said = (await commands.run(name, ["systemctl", "is-system-running"])).stdout.decode().strip()
        if said not in ("", "offline", "initializing", "starting"):
            failed = await commands.run(name, ["systemctl", "--failed", "--no-legend", "--plain"])
            return f"{said} {failed.stdout.decode()}".strip()
        assert time.monotonic() < end, f"after {BOOT_DEADLINE} s: {said}"
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_life(booted: tuple[LxcDoor, ExecDoor, Container], capsys: pytest.CaptureFixture[str]) -> None:
    door, commands, one = booted
    began = time.perf_counter()
    assert await state_of(commands, one.name) == "running"
    seconds = time.perf_counter() - began
    script = "hostnamectl --static; cat /etc/hostname; hostname --fqdn; cat /etc/machine-id; getent hosts c1.example"
    lines = (await commands.run(one.name, ["sh", "-c", script])).stdout.decode().splitlines()
    assert lines[:3] == ["c1", "c1", "c1"]
    assert len(lines[3]) == 32
    assert lines[4].split()[0] == "10.9.1.1"
    log = (await commands.run(one.name, ["journalctl", "--boot", "--no-pager", "-p", "err"])).stdout.decode()
    assert "Failed" not in log, log
    began = time.perf_counter()
    await asyncio.to_thread(door.stop, one)
    stopped = time.perf_counter() - began
    assert stopped < 25, "it was killed, not shut down"
    with capsys.disabled():
        print(f"\nsystemd: running {seconds:.2f} s after its start, stopped in {stopped:.2f} s")
    await asyncio.to_thread(door.start, one)
    began = time.perf_counter()
    await asyncio.to_thread(door.stop, one)  # before systemd listens to signals
    assert time.perf_counter() - began < 25, "a signal that came too early was never sent again"


@pytest.mark.slow
async def test_lacks_of_inotify_are_counted(
    booted: tuple[LxcDoor, ExecDoor, Container], container: Callable[..., Container]
) -> None:
    door, _, _ = booted
    many = [container(number, image="test-systemd") for number in range(1, 5000)]
    lacks = {lack.what.split(":")[0].split(" is ")[0]: lack.mend for lack in door.lacks(many)}
    assert lacks["fs.inotify.max_user_instances"].startswith("sysctl -w fs.inotify.max_user_instances=")
    assert "memory" in lacks
    assert "disk" in lacks
    assert door.lacks([container(image="test-systemd")]) == ()


WORKER = """[Unit]
ConditionPathExists=/etc/caas/ready/nova-compute
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@pytest.mark.slow
async def test_a_clone_of_a_running_one_boots_as_a_machine_of_its_own(
    booted: tuple[LxcDoor, ExecDoor, Container], container: Callable[..., Container]
) -> None:
    """And a service that the source has configured does not start in it before it is configured there, too."""
    door, commands, source = booted
    clone = container(2, image="test-systemd", clone_of="c1")

    async def say(name: str, script: str, stdin: bytes = b"") -> str:
        done = await commands.run(name, ["sh", "-ec", script], stdin=stdin)
        assert done.status == 0, done.stderr
        return done.stdout.decode()

    assert await state_of(commands, source.name) == "running"
    unit = "/etc/systemd/system/worker.service"
    install = (
        f"cat > {unit}; mkdir -p /etc/caas/ready; touch /etc/caas/ready/nova-compute; systemctl enable --now worker"
    )
    await say(source.name, install, WORKER.encode())
    who = "cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id; systemctl is-active worker || :"
    before = (await say(source.name, who)).split()
    await asyncio.to_thread(door.create, clone)
    await asyncio.to_thread(door.start, clone)
    assert await state_of(commands, clone.name) == "running"
    assert (await say(source.name, who)).split() == before
    machine, _, worker = (await say(clone.name, who)).split()
    assert len(machine) == 32
    assert machine != before[0]
    assert (before[2], worker) == ("active", "inactive")
    assert await say(clone.name, "hostname; hostnamectl --static") == "c2\nc2\n"
    assert before[0] not in await say(clone.name, "ls /var/log/journal /run/log/journal 2>/dev/null || :")
    assert await say(
        clone.name, "touch /etc/caas/ready/nova-compute; systemctl start worker; systemctl is-active worker"
    )
