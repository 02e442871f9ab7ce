"""What the agent sees of a container from outside is what a program in it sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from agent.core.doors import Inspection
from coordinator.nova.goals import PYTHON, make_program
from proto.model import Container
from tests.lxc.insides import DoorShell

FILES = ("/etc/hostname", "/etc/caas/own", "/etc/caas/link", "/etc/caas/out", "/etc/caas", "/etc/none")
UNITS = ("systemd-journald", "caas-probe", "no-such-unit")
#: In the container: a file of somebody else's, links within and to what only the machine has, a unit that has failed.
PREPARE = """
mkdir -p /etc/caas /run/caas/started
echo own > /etc/caas/own && chown nobody:mail /etc/caas/own && chmod 0604 /etc/caas/own
ln -s /etc/caas/own /etc/caas/link && ln -s {outside} /etc/caas/out
printf 'digest  /etc/x\\n' > /run/caas/started/caas-probe
printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n' > /run/systemd/system/caas-probe.service
systemctl start caas-probe; systemctl is-failed caas-probe
"""

BUSY = "until test -e /run/enough; do systemctl start caas-probe; systemctl reset-failed caas-probe; done; exit 0"


@pytest.mark.slow
async def test_as_a_program_in_it_sees_it(
    open_door: Callable[..., LxcDoor], state: Path, container: Callable[..., Container], tmp_path: Path
) -> None:
    build_image(ImageStore(IMAGES), "base")
    door, one = open_door(images=IMAGES), container(image="base")
    commands = ExecDoor(state)
    question = Inspection(name=one.name, files=FILES, units=UNITS, ports=())
    outside = tmp_path / "outside"
    outside.write_text("the machine's")
    try:
        door.create(one)
        door.start(one)
        shell = DoorShell(commands, one)
        await shell.booted()
        await shell.run(["sh", "-c", PREPARE.format(outside=outside)])
        wanted = {"files": FILES, "units": UNITS, "ports": (), "http": (), "rows": ()}
        busy = asyncio.create_task(shell.run(["sh", "-c", BUSY], check=False))
        for _ in range(100):  # who asks meanwhile is told of units that come and go, too
            unit = (await asyncio.to_thread(door.inspect, [question]))[one.name]["units"]["systemd-journald"]
            assert unit["active"] == "active"
        await shell.run(["touch", "/run/enough"])
        await busy
        await shell.run(["systemctl", "start", "caas-probe"], check=False)
        inside = json.loads((await shell.run(PYTHON, stdin=make_program("probe", wanted))).stdout)
    finally:
        commands.close()
    absent = Inspection(name="no.such", files=(), units=(), ports=())
    seen = door.inspect([question, absent])
    assert {unit: found["active"] for unit, found in inside["units"].items()} == {
        "systemd-journald": "active",
        "caas-probe": "failed",
        "no-such-unit": "inactive",
    }
    assert inside["files"]["/etc/caas/link"][1:] == ["0604", "nobody", "mail"]
    assert inside["files"]["/etc/caas/out"] is None
    assert seen[one.name] == inside
    for _ in range(20):  # systemd that reads a question too early never answers it
        assert door.inspect([question])[one.name] == inside
    assert seen["no.such"]["error"]["code"] == "not-found"
    door.stop(one)
    assert "does not run" in door.inspect([question])[one.name]["error"]["message"]
