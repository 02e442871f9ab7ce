"""One container from beginning to end, in a file that can be run alone: in a guest with cgroup v2 it must pass.

Set CAAS_TEST_STATE to a folder on a tmpfs where the root file system takes no overlay, REQUIRE_CGROUP=2 to fail where
the machine has another cgroup version.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.containers.config import cgroup_base
from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from proto.model import Container
from tests.lxc.test_door import cgroups_of, inside, is_gone, pid_of, pings


def test_one_container(
    open_door: Callable[..., LxcDoor],
    state: Path,
    container: Callable[..., Container],
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    assert os.environ.get("REQUIRE_CGROUP", str(version)) == str(version)
    door = open_door(workers=1)  # a guest without hardware virtualisation starts each interpreter in seconds
    one = container()
    assert door.lacks([one]) == ()
    door.create(one)
    door.start(one)
    (seen,) = door.observe()
    assert seen.container == one
    assert Path(f"/proc/{seen.pid}/comm").read_text().strip() == "init"
    assert f"/{cgroup_base(door.lxcpath)}/t.c1" in Path(f"/proc/{seen.pid}/cgroup").read_text()
    assert 0 < seen.memory_bytes < 2**30
    assert pings("10.9.1.1")
    assert "10.9.1.1/16" in inside(seen.pid, "ip", "addr", "show", "eth0")
    commands = ExecDoor(state)
    try:
        done = asyncio.run(commands.run(one.name, ["sh", "-c", "hostname; exit 3"]))
    finally:
        commands.close()
    assert (done.status, done.stdout) == (3, b"c1\n")
    Path(f"/proc/{seen.pid}/root/root/file").touch()
    clone = container(2, clone_of="c1")
    door.create(clone)  # while its source runs: what freezes that differs from version to version
    assert (door.lxcpath / clone.name / "delta/upper/root/file").exists()
    assert inside(seen.pid, "hostname") == "c1\n", "it stays frozen"
    door.delete(clone)
    door.stop(one)
    assert is_gone(seen.pid)
    assert pid_of(door, one) == 0
    door.delete(one)
    assert door.observe() == ()
    assert cgroups_of(door) == []
    with capsys.disabled():
        print(f"\none container on cgroup v{version}, root file system by {door.storage_for(image_of(door)).value}")


def image_of(door: LxcDoor) -> Path:
    return door.images.find("test-busybox").rootfs
