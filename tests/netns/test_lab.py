"""Labs, brought up and down by their commands with stand-ins for the daemons (tests.support.lab_daemon).

`ip`, `ping`, /proc and tests.support.fingerprint judge; nothing of coordinator.lab is asked what it did.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import fingerprint
from tests.support.wire import Tap

ROOT = Path(__file__).resolve().parents[2]
STATE = Path("/var/lib/caas/labs")
EXPERIMENT = 0x88B5  # IEEE 802: local experimental EtherType 1
Labs = Callable[[], str]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.lab_driver", *words]


def run(*words: str, status: int = 0, term_wait: float | None = None) -> subprocess.CompletedProcess[str]:
    more = {} if term_wait is None else {"LAB_TERM_WAIT": str(term_wait)}
    done = subprocess.run(
        command(*words), cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def inside(lab: str, machine: str, *argv: str) -> subprocess.CompletedProcess[str]:
    words = ["nsenter", f"--net=/run/netns/{lab}-{machine}", *argv]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)


def pings(lab: str, machine: str, address: str, *options: str) -> bool:
    return inside(lab, machine, "ping", "-n", "-c1", "-W2", *options, address).returncode == 0


def status(lab: str) -> Any:
    return json.loads(run("status", "--name", lab, "--json").stdout)


def daemons(lab: str) -> dict[int, str]:
    """Pid -> command line of every process whose state lies in the lab's folder."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{STATE}/{lab}/" in line:
            found[int(entry)] = line
    return found


@pytest.fixture
def labs() -> Iterator[Labs]:
    """Makes names of labs, and brings every one of them down at the end."""
    names: list[str] = []

    def make() -> str:
        names.append(f"t{os.getpid()}{chr(ord('a') + len(names))}")
        return names[-1]

    yield make
    for name in names:
        run("down", "--name", name)


def test_the_default_lab(labs: Labs) -> None:
    lab = labs()
    run("up", "--name", lab)
    seen = status(lab)
    assert seen["lab"] == lab
    assert seen["coordinator"] == f"/run/caas/{lab}/coordinator.sock"
    addresses = {(host, a["link"], a["address"]) for host, entry in seen["hosts"].items() for a in entry["addresses"]}
    assert addresses == {
        ("host1", "eth0", "192.168.2.25/24"),
        ("host2", "eth0", "192.168.2.26/24"),
        ("natbox", "eth0", "192.168.2.24/24"),
        ("natbox", "eth2", "203.0.113.1/24"),
        ("outside", "eth0", "203.0.113.254/24"),
    }
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    for host in ("host1", "host2", "natbox", "outside", "management", "trunk"):
        assert seen["hosts"][host]["namespace"] == f"{lab}-{host}"
        assert re.search(rf"^{lab}-{host}\b", listed, re.MULTILINE)
    assert pings(lab, "host1", "192.168.2.26")
    assert pings(lab, "host1", "192.168.2.24")
    assert pings(lab, "natbox", "203.0.113.254")
    assert not pings(lab, "outside", "192.168.2.24", "-W0.3"), "outside must know no way into the management network"
    forwarding = {
        f"{host} {link}": inside(lab, host, "sysctl", "-n", f"net.ipv4.conf.{link}.forwarding").stdout.strip()
        for host, link in (("host1", "eth0"), ("host2", "eth0"), ("host1", "eth1"), ("outside", "eth0"))
    }
    assert forwarding == {"host1 eth0": "1", "host2 eth0": "1", "host1 eth1": "0", "outside eth0": "0"}
    pids = {host: seen["hosts"][host]["pid"] for host in ("host1", "host2", "natbox")}
    running = daemons(lab)
    for host, pid in pids.items():
        assert f"/machines/{host}/" in running[pid]
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{lab}-{host}").st_ino
    (coordinator,) = running.keys() - pids.values()
    assert os.stat(f"/proc/{coordinator}/ns/net").st_ino == os.stat(f"/run/netns/{lab}-host1").st_ino


def others_can_read(folder: Path) -> bool:
    """Whether every folder above lets everybody through, and *folder* itself can be listed."""
    return all(path.stat().st_mode & 0o001 for path in folder.parents) and folder.stat().st_mode & 0o005 == 0o005


def test_the_coordinator_is_an_ordinary_user_without_privileges(labs: Labs) -> None:
    lab = labs()
    said = run("up", "--name", lab).stderr
    (coordinator,) = (pid for pid, line in daemons(lab).items() if "--socket" in line)
    text = Path(f"/proc/{coordinator}/status").read_text()
    if not others_can_read(ROOT):
        assert "runs as root" in said
        pytest.skip(f"{ROOT} is closed to ordinary users, and the lab said so")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) & {"0"} == set()
    assert fields["Groups"].strip() == ""
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"].strip() == "1"
    uid = int(fields["Uid"].split()[0])
    key = STATE / lab / "coordinator/tls/key.pem"
    assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (uid, 0o600)
    agent_key = STATE / lab / "machines/host1/tls/key.pem"
    assert (agent_key.stat().st_uid, agent_key.stat().st_mode & 0o777) == (0, 0o600)


def test_a_second_up_starts_nothing_again_and_completes_what_is_missing(labs: Labs) -> None:
    lab = labs()
    run("up", "--name", lab)
    before = daemons(lab)
    run("up", "--name", lab)
    assert daemons(lab) == before
    victim = status(lab)["hosts"]["host2"]["pid"]
    os.kill(victim, signal.SIGKILL)
    subprocess.run(["ip", "-n", f"{lab}-host2", "link", "del", "eth1"], check=True)
    run("up", "--name", lab)
    after = daemons(lab)
    assert after.keys() & before.keys() == before.keys() - {victim}
    assert len(after) == len(before)
    links = json.loads(inside(lab, "host2", "ip", "-json", "link").stdout)
    assert {link["ifname"] for link in links} == {"lo", "eth0", "eth1"}
    ports = json.loads(inside(lab, "trunk", "ip", "-json", "link").stdout)
    assert {link["ifname"]: link.get("master") for link in ports}["host2.eth1"] == "switch"


def test_two_labs_at_once_have_the_same_addresses_and_nothing_in_common(labs: Labs) -> None:
    first, second = labs(), labs()
    both = [subprocess.Popen(command("up", "--name", lab), cwd=ROOT) for lab in (first, second)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert status(first)["hosts"].keys() == status(second)["hosts"].keys()
    subprocess.run(["ip", "-n", f"{first}-host2", "link", "set", "eth0", "down"], check=True)
    assert not pings(first, "host1", "192.168.2.26", "-W0.3")
    assert pings(second, "host1", "192.168.2.26")
    run("down", "--name", first)
    assert daemons(first) == {}
    assert len(daemons(second)) == 4
    assert pings(second, "host1", "192.168.2.26")


def test_two_at_once_on_one_lab_exclude_each_other(labs: Labs) -> None:
    lab = labs()
    both = [
        subprocess.Popen(command("up", "--name", lab), cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    statuses = sorted(process.returncode for process in both)
    assert statuses in ([0, 1], [0, 0]), said
    if statuses == [0, 1]:
        assert any(f"busy: lab {lab} is being changed by another process" in text for text in said)
    assert len(daemons(lab)) == 4


@pytest.mark.parametrize("milliseconds", [300, 450, 550, 650, 750, 900])
def test_killed_in_the_middle_then_up_then_down(labs: Labs, milliseconds: int) -> None:
    lab = labs()
    process = subprocess.Popen(command("up", "--name", lab), cwd=ROOT, stderr=subprocess.DEVNULL)
    time.sleep(milliseconds / 1000)  # the moment is what is tested: there is nothing to wait for
    process.kill()
    process.wait()
    run("up", "--name", lab)
    assert len(daemons(lab)) == 4
    assert pings(lab, "host1", "192.168.2.26")
    assert pings(lab, "natbox", "203.0.113.254")
    run("down", "--name", lab)
    assert_gone(lab)


@pytest.mark.parametrize("milliseconds", [350, 450, 600])
def test_down_completes_what_was_cut_off(labs: Labs, milliseconds: int) -> None:
    lab = labs()
    run("up", "--name", lab)
    process = subprocess.Popen(command("down", "--name", lab), cwd=ROOT, stderr=subprocess.DEVNULL)
    time.sleep(milliseconds / 1000)  # as above
    process.kill()
    process.wait()
    run("down", "--name", lab)
    assert_gone(lab)


def assert_gone(lab: str) -> None:
    assert daemons(lab) == {}
    assert not [name for name in os.listdir("/run/netns") if name.startswith(f"{lab}-")]
    assert not (STATE / lab).exists()
    assert not Path("/run/caas", lab).exists()


def test_a_daemon_that_was_started_and_not_written_down_is_not_started_twice(labs: Labs) -> None:
    lab = labs()
    run("up", "--name", lab)
    lost = status(lab)["hosts"]["host1"]["pid"]
    (STATE / lab / "pid/caas-agent.host1").unlink()
    run("up", "--name", lab)
    assert len(daemons(lab)) == 4
    assert lost not in daemons(lab)
    (STATE / lab / "pid/caas-agent.host2").unlink()
    run("down", "--name", lab)
    assert_gone(lab)


def test_a_daemon_that_ends_is_reported_with_its_last_lines(labs: Labs) -> None:
    lab = labs()
    state = STATE / lab / "machines/host2/state"
    state.mkdir(parents=True)
    (state / "broken").touch()
    said = run("up", "--name", lab, status=1).stderr
    assert "caas-agent.host2 ended before it served" in said
    assert "| error: it is broken" in said
    (state / "broken").unlink()
    run("up", "--name", lab)
    assert len(daemons(lab)) == 4


def test_down_insists_where_a_daemon_does_not_listen(labs: Labs) -> None:
    lab = labs()
    state = STATE / lab / "machines/host1/state"
    state.mkdir(parents=True)
    (state / "stubborn").touch()
    run("up", "--name", lab)
    began = time.monotonic()
    run("down", "--name", lab, term_wait=2)
    assert time.monotonic() - began > 2, "it was asked first"
    assert_gone(lab)


def test_a_namespace_that_is_not_the_labs_is_left_alone(labs: Labs) -> None:
    lab = labs()
    foreign = f"{lab}-host2"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        said = run("up", "--name", lab, status=1).stderr
        assert f"not-owned: namespace {foreign} exists and is not of lab {lab}" in said
        assert not (STATE / lab).exists(), "refused before anything was touched"
        run("down", "--name", lab)
        assert foreign in os.listdir("/run/netns")
    finally:
        subprocess.run(["ip", "netns", "del", foreign], check=True)


def test_somebody_elses_socket_is_named_and_kept(labs: Labs) -> None:
    lab = labs()
    path = Path("/run/caas", lab, "coordinator.sock")
    path.parent.mkdir(parents=True)
    path.touch()
    said = run("up", "--name", lab, status=1).stderr
    assert f"conflict: {path}: it is there and not of this lab" in said
    assert "--name NAME" in said
    path.unlink()


def test_another_topology_is_refused_while_the_lab_is_up(labs: Labs, tmp_path: Path) -> None:
    lab = labs()
    file = tmp_path / "two.yaml"
    file.write_text(ROUTED)
    run("up", "--name", lab)
    before = daemons(lab)
    assert f"refused: lab {lab} is there with another topology" in run("up", str(file), "--name", lab, status=2).stderr
    assert daemons(lab) == before


def test_a_wrong_topology_file_touches_nothing(labs: Labs, tmp_path: Path) -> None:
    lab = labs()
    file = tmp_path / "bad.yaml"
    file.write_text("hosts: {a: {nics: {e: {switch: x}}}, b: {}}\nnat: 1\n")
    said = run("up", str(file), "--name", lab, status=2).stderr
    assert f"{file}:2: nat: unknown key" in said
    assert not (STATE / lab).exists()


ROUTED = """
coordinator: left
switches: {lan1: {mtu: 1500}, lan2: {mtu: 9000}}
hosts:
  left: {gateway: 10.1.0.254, nics: {eth0: {switch: lan1, address: 10.1.0.1/24}}}
  right: {gateway: 10.2.0.254, nics: {eth0: {switch: lan2, address: 10.2.0.1/24}}}
routers:
  r:
    nics:
      a: {switch: lan1, address: 10.1.0.254/24}
      b: {switch: lan2, address: 10.2.0.254/24, mtu: 1400}
"""


def test_a_topology_with_a_router_between_hosts(labs: Labs, tmp_path: Path) -> None:
    lab = labs()
    file = tmp_path / "routed.yaml"
    file.write_text(ROUTED)
    run("up", str(file), "--name", lab)
    assert set(status(lab)["hosts"]) == {"left", "right", "r", "lan1", "lan2"}
    assert pings(lab, "left", "10.2.0.1")
    assert inside(lab, "left", "ping", "-c1", "-W2", "-t1", "10.2.0.1").returncode != 0, "there is a hop in between"
    assert not pings(lab, "left", "10.2.0.1", "-M", "do", "-s", "1400", "-W0.3"), "1400 bytes is the router's MTU"
    assert pings(lab, "left", "10.2.0.1", "-M", "do", "-s", "1372")
    mtus = {link["ifname"]: link["mtu"] for link in json.loads(inside(lab, "lan2", "ip", "-json", "link").stdout)}
    assert (mtus["switch"], mtus["right.eth0"]) == (9000, 9000)
    run("up", "--name", lab)  # without the file: the lab is what it is
    assert set(status(lab)["hosts"]) == {"left", "right", "r", "lan1", "lan2"}


#: Bytes after the addresses of a frame, before its EtherType -> the tags that are seen.
TAGS: dict[str, tuple[tuple[int, int], ...]] = {
    "": (),
    "81000001": ((0x8100, 1),),
    "81000064": ((0x8100, 100),),
    "8100effe": ((0x8100, 0xEFFE),),  # VID 4094 with priority 7
    "88a80064": ((0x88A8, 100),),
    "8100006481000065": ((0x8100, 100), (0x8100, 101)),
}


def test_the_trunk_passes_frames_as_they_are(labs: Labs) -> None:
    lab = labs()
    run("up", "--name", lab)
    addresses = bytes.fromhex("ffffffffffff020000000001")
    passed = {}
    with Tap(f"{lab}-host1", "eth1") as sender, Tap(f"{lab}-host2", "eth1") as receiver:
        for inline in TAGS:
            text = f"from host1: {inline}".encode()
            sender.send(addresses + bytes.fromhex(inline) + EXPERIMENT.to_bytes(2, "big") + text + bytes(50))
            (frame,) = receiver.collect(lambda frame: frame.ethertype == EXPERIMENT)
            assert frame.payload.startswith(text)
            passed[inline] = frame.tags
    assert passed == TAGS


def test_after_down_the_machine_is_as_it_was(labs: Labs) -> None:
    # Others may use this machine at the same time: what they change does not happen five times in a row.
    left = "never tried"
    for _ in range(5):
        lab = labs()
        before = fingerprint.take()
        run("up", "--name", lab)
        during = fingerprint.difference(before, fingerprint.take())
        for section in ("namespaces", "mounts", "processes", "files"):
            assert f"{section}: + " in during, f"the fingerprint does not see a lab's {section}"
        assert "links: " not in during, during
        assert "addresses: " not in during, during
        run("down", "--name", lab)
        left = fingerprint.wait_same(before, deadline=3)
        if not left:
            return
    pytest.fail(left)


def test_the_inotify_limit_is_raised_while_a_lab_is_up_and_restored_by_the_last(labs: Labs) -> None:
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if STATE.is_dir() and any(path.is_dir() for path in STATE.iterdir()):
        pytest.skip("another lab is up, and has raised it: caas lab down")
    before = int(limit.read_text())
    first, second = labs(), labs()
    run("up", "--name", first)
    assert int(limit.read_text()) == max(before, 8192)
    run("up", "--name", second)
    run("down", "--name", first)
    assert int(limit.read_text()) == max(before, 8192), "another lab still needs it"
    run("down", "--name", second)
    assert int(limit.read_text()) == before
