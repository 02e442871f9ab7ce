"""A host whose agent is killed: changes are accepted meanwhile, and the lab's coordinator does the rest by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from tests.support.demonstration import ROOT, LabUser
from tests.support.netns import poll_until
from tests.support.small_coordinator import IMAGE

ONE = """\
name: demo
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
  host2: {address: 192.168.2.26, trunk: eth1}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24}
containers:
  c1: {host: host1, network: cluster, address: 192.168.10.50, roles: [controller, compute]}
"""
TWO = ONE + "  c2: {host: host2, network: cluster, address: 192.168.10.51, roles: [compute]}\n"
#: Two to thirty seconds are promised; the agent has to start first, on a machine that may be busy.
SOON = 60.0


class Small(LabUser):
    """A lab of host1 and host2 whose containers are busybox's."""

    def bring_up(self) -> None:
        """All of it, or what is missing."""
        argv = [sys.executable, "-m", "tests.support.small_coordinator", "lab", "up", "--name", self.lab]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_agent(self, host: str) -> None:
        pid = self.document("lab", "status", "--name", self.lab, "--json")["hosts"][host]["pid"]
        os.kill(pid, signal.SIGKILL)

    def status(self) -> Any:
        return self.document("status", "demo", "--json")


@pytest.fixture
def user() -> Iterator[Small]:
    build_image(ImageStore(IMAGES), IMAGE)
    found = Small(f"ta{os.getpid()}")
    try:
        found.bring_up()
        yield found
    finally:
        found.down()


def test_what_was_missed_is_done_when_the_agent_is_back(user: Small, tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(ONE)
    two.write_text(TWO)
    user.caas("up", str(one))
    user.kill_agent("host2")
    said = user.caas("up", str(two)).stdout.decode()
    assert said.splitlines()[-1].startswith("demo is degraded: host2 is behind"), said
    shown = user.status()
    lag = shown["behind"]["host2"]
    assert (shown["state"], lag["generation"], lag["wanted"]) == ("degraded", 1, 2)
    assert lag["pending"] == ["create container demo.c2"]
    assert "\nbehind:\n  host2: generation 1, 2 wanted, since " in user.caas("status", "demo").stdout.decode()

    began = time.monotonic()
    user.bring_up()
    poll_until(lambda: user.status()["state"] == "up", deadline=SOON, describe=user.status)
    print(f"caught up {time.monotonic() - began:.1f} s after the agent's start was asked for")
    assert user.status()["behind"] == {}
    user.inside("demo", "c1", ["ping", "-c", "1", "-W", "5", "192.168.10.51"])

    user.kill_agent("host2")
    said = user.caas("down", "demo").stdout.decode()
    assert said.splitlines()[-1].startswith("demo: host2 is behind"), said
    assert user.status()["behind"]["host2"]["leaving"]
    user.bring_up()
    poll_until(lambda: user.status()["state"] == "absent", deadline=SOON, describe=user.status)
    links = subprocess.run(
        ["nsenter", f"--net=/run/netns/{user.namespace('host2')}", "ip", "-br", "link"], capture_output=True, check=True
    )
    assert b"lxcbr100" not in links.stdout
