"""`caas lab down` with containers running: they, their monitors, mounts and cgroups are gone, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fingerprint

ROOT = Path(__file__).resolve().parents[2]
CAAS = [sys.executable, "-m", "coordinator.cli.main"]
TOPOLOGY = """
switches: {lan: {}}
hosts:
  host1: {nics: {eth0: {switch: lan, address: 192.168.2.25/24}}}
"""
#: Starts containers as the agent of host1 does, and ends without a word to them.
START = """
import os, sys
from ipaddress import IPv4Interface
from pathlib import Path
from agent.containers.door import LxcDoor
from proto.model import Container, HostEntry, Nic

door = LxcDoor(Path(sys.argv[1]), images=Path(sys.argv[2]), workers=2)
door.__enter__()
for number in range(1, 4):
    address = IPv4Interface(f"10.9.0.{number}/24")
    nic = Nic(bridge="br0", port=f"p{number}", mac=f"02:00:00:00:00:0{number}", mtu=1500, address=address, gateway=None)
    container = Container(cluster="demo", hostname=f"c{number}", image="test-busybox", nic=nic, hosts=(), roles=())
    door.create(container)
    door.start(container)
print(*(seen.pid for seen in door.observe()), flush=True)
os._exit(0)
"""


def run(*words: str) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    name = f"tl{os.getpid()}"
    (tmp_path / "one.yaml").write_text(TOPOLOGY)
    try:
        run(*CAAS, "lab", "up", str(tmp_path / "one.yaml"), "--name", name)
        yield name
    finally:
        run(*CAAS, "lab", "down", "--name", name)


def start_containers(lab: str, images: Path) -> list[int]:
    run("ip", "-n", f"{lab}-host1", "link", "add", "br0", "type", "bridge")
    state = f"/var/lib/caas/labs/{lab}/machines/host1/state"
    enter = ["nsenter", f"--net=/run/netns/{lab}-host1", "--"]
    return [int(pid) for pid in run(*enter, sys.executable, "-c", START, state, str(images)).split()]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def mentions(lab: str) -> list[str]:
    """What of the machine still speaks of the lab: processes' command lines and mounts."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/labs/{lab}/" in line]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"/labs/{lab}/" in line:
            found.append(f"{entry} {line}")
    return found


@pytest.mark.parametrize("harm", ["none", "agent killed", "monitors killed"])
def test_running_containers_are_removed_whole(lab: str, images: Path, harm: str) -> None:
    before = fingerprint.take()
    inits = start_containers(lab, images)
    assert len(inits) == 3
    assert all(pid > 0 for pid in inits)
    monitors = [parent_of(pid) for pid in inits]
    new_cgroups = fingerprint.take().sections["cgroups"] - before.sections["cgroups"]
    assert any("demo.c1" in path for path in new_cgroups)
    if harm == "agent killed":
        listed = [line for line in mentions(lab) if "agent.rpc.main" in line]
        assert len(listed) == 1
        os.kill(int(listed[0].split()[0]), 9)
    if harm == "monitors killed":
        for pid in monitors:
            os.kill(pid, 9)
    run(*CAAS, "lab", "down", "--name", lab)
    assert mentions(lab) == []
    for pid in (*inits, *monitors):
        assert not Path(f"/proc/{pid}/ns/net").exists() or not os.path.lexists(f"/proc/{pid}/exe")
    left = [path for path in new_cgroups if os.path.isdir(path)]
    assert left == []
    assert not Path(f"/var/lib/caas/labs/{lab}").exists()
    assert not Path(f"/run/lxc/lock/var/lib/caas/labs/{lab}").exists()


def test_what_is_not_the_labs_stays(lab: str, images: Path) -> None:
    """A process that somebody started in one of the lab's namespaces, and an open file of its folder."""
    log = f"/var/lib/caas/labs/{lab}/log/caas-coordinator.log"
    bystanders = [
        subprocess.Popen(["nsenter", f"--net=/run/netns/{lab}-host1", "sleep", "60"]),
        subprocess.Popen(["tail", "-f", log], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
    ]
    try:
        start_containers(lab, images)
        down = subprocess.run(
            [*CAAS, "lab", "down", "--name", lab], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"warning: pid {bystanders[0].pid} (sleep) in {lab}-host1 is not the lab's" in down.stderr
        assert [process.poll() for process in bystanders] == [None, None]
    finally:
        for process in bystanders:
            process.kill()
            process.wait()
