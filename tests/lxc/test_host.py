"""A physical host under a real systemd: installed, told once what it should have, then left to itself.

Its agent is restarted and killed while tagged echo requests come in over the trunk, and the host is rebooted. Who looks
are raw sockets on the trunk, `ip -json` and systemd; nobody calls the agent but for the one Apply.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import json_format
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Dot1Q, Ether

from agent.containers.image import IMAGES, ImageStore
from agent.containers.image_build import build_image
from coordinator.lab import issue
from proto import agent_pb2, natbox_pb2
from proto.marks import HOST, Mark
from proto.model import Address, Bridge, ClusterHost, Container, HostState, Ipip, Nic, Route, Vlan
from proto.wire import cluster_host_to_wire, gateway_table_to_wire
from tests.support.gateway import Station, make_gateway, make_table
from tests.support.netns import Namespaces, poll_until
from tests.support.physical import ADDRESS, COORDINATOR, PORT, ROOT, PhysicalHost
from tests.support.wire import Frame, Tap

VID, MTU = 100, 1480
BOX_MAC, BOX_ADDRESS = "02:00:00:00:00:0b", "10.9.1.11"
WIRE_MAC, WIRE_ADDRESS = "02:00:00:00:00:aa", "10.9.1.99"
FAR = ipaddress.IPv4Address("192.168.2.26")
INTERVAL = 0.01
#: Requests of one trial at least: two seconds' worth.
SENT_LEAST = 200
_probe_ids = itertools.count(1)


def make_desired() -> ClusterHost:
    """A container in a VLAN, and a tunnel with a route that leads through it."""
    mark = Mark("demo", "lan")
    bridge = Bridge(name="lxcbr100", mtu=MTU, mark=mark)
    vlan = Vlan(name="eth1.100", parent="eth1", vid=VID, mtu=MTU, master=bridge.name, mark=mark)
    tunnel = Ipip(
        name="t192.168.2.26",
        local=ipaddress.IPv4Address(ADDRESS),
        remote=FAR,
        mtu=MTU,
        mark=Mark(HOST, "t192.168.2.26"),
    )
    gateway = ipaddress.IPv4Interface("10.9.1.1/24")
    nic = Nic(
        bridge=bridge.name,
        port="demo.box",
        mac=BOX_MAC,
        mtu=MTU,
        address=ipaddress.IPv4Interface(f"{BOX_ADDRESS}/24"),
        gateway=gateway.ip,
    )
    state = HostState(
        links=(bridge, vlan, tunnel),
        addresses=(Address(link=bridge.name, address=gateway),),
        routes=(Route(dst=ipaddress.IPv4Network("10.9.2.0/24"), dev=tunnel.name, src=gateway.ip),),
        containers=(Container(cluster="demo", hostname="box", image="test-busybox", nic=nic, hosts=(), roles=()),),
    )
    return ClusterHost(cluster="demo", host="host1", generation=1, state=state)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhysicalHost]:
    """Installed, booted, and told once what it should have."""
    folder = tmp_path_factory.mktemp("physical")
    certificates = folder / "certificates"
    assert issue.main([str(certificates), f"agent:host1@{ADDRESS}", f"natbox@{ADDRESS}", "coordinator"]) == 0
    namespaces = Namespaces()
    try:
        one = PhysicalHost(folder, namespaces.add("world"))
        one.install(build_image(ImageStore(IMAGES), "test-host").build.rootfs, certificates)
        build_image(ImageStore(one.rootfs / "var/lib/caas/images"), "test-busybox")
        one.wire_up()
        with one.booted():
            request = agent_pb2.ApplyRequest(desired=cluster_host_to_wire(make_desired()))
            call(one, certificates, request.SerializeToString())
            yield one
    finally:
        namespaces.close()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def call(host: PhysicalHost, certificates: Path, request: bytes) -> str:
    """The coordinator's part, from where the host's management network is."""
    return ask(host, certificates, "tests.support.host_client", PORT, "host1", request)


def ask(host: PhysicalHost, certificates: Path, client: str, port: int, word: str, request: bytes) -> str:
    argv = [sys.executable, "-m", client, f"{ADDRESS}:{port}", str(certificates / "coordinator"), word]
    enter = ["nsenter", f"--net=/run/netns/{host.netns}"]
    done = subprocess.run([*enter, *argv], input=request, capture_output=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, f"{done.stdout.decode()}{done.stderr.decode()}\n{host.journal()}"
    return done.stdout.decode()


class Pinger:
    """Tagged echo requests to the container, a hundred a second, and who answered."""

    def __init__(self, host: PhysicalHost) -> None:
        self._tap = Tap(host.netns, "wire")
        self._id = next(_probe_ids)
        self._ended = threading.Event()
        self.sent = 0
        self.answered: set[int] = set()

    def request(self, sequence: int) -> bytes:
        ip = IP(src=WIRE_ADDRESS, dst=BOX_ADDRESS) / ICMP(id=self._id, seq=sequence)
        return bytes(Ether(src=WIRE_MAC, dst=BOX_MAC) / Dot1Q(vlan=VID) / ip)

    def _send(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            self._tap.send(self.request(self.sent))
            self.sent += 1
            due += INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))

    def listen(self, seconds: float, *, wanted: float = math.inf) -> None:
        """Count answers, up to *wanted*, and answer who asks for the wire's address: it is the only neighbour."""
        end = time.monotonic() + seconds
        while len(self.answered) < wanted and (left := end - time.monotonic()) > 0:
            if frame := self._tap.receive(left):
                self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        if [tci & 0xFFF for _, tci in frame.tags] != [VID]:
            return
        if frame.ethertype == 0x0806 and frame.payload[6:8] == b"\0\1":
            asked = frame.payload
            if asked[24:28] == ipaddress.IPv4Address(WIRE_ADDRESS).packed:
                mine = bytes.fromhex(WIRE_MAC.replace(":", ""))
                reply = asked[:6] + b"\0\2" + mine + asked[24:28] + asked[8:18]
                self._tap.send(asked[8:14] + mine + bytes.fromhex("81000064") + b"\x08\x06" + reply)
        elif frame.ethertype == 0x0800:
            packet = IP(frame.payload)
            if packet.src == BOX_ADDRESS and ICMP in packet and packet[ICMP].type == 0 and packet[ICMP].id == self._id:
                self.answered.add(packet[ICMP].seq)

    def wait_answer(self, deadline: float) -> None:
        """Until the container answers at all."""

        def answers() -> bool:
            self._tap.send(self.request(0))
            self.listen(0.1)
            return bool(self.answered)

        poll_until(answers, deadline=deadline)
        self.answered.clear()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Requests go out while this lasts; at the end all that was answered within a second is counted."""
        listening = threading.Thread(target=self._listen_on)
        sending = threading.Thread(target=self._send)
        listening.start()
        sending.start()
        try:
            yield
            # What was done may have been over in less than a second; what comes of it later counts, too.
            poll_until(lambda: self.sent > SENT_LEAST, deadline=30)
        finally:
            self._ended.set()
            sending.join()
            listening.join()
            self.listen(1.0, wanted=self.sent)

    def _listen_on(self) -> None:
        while not self._ended.is_set():
            self.listen(0.1)

    def close(self) -> None:
        self._tap.socket.close()


@pytest.fixture
def pinger(host: PhysicalHost) -> Iterator[Pinger]:
    opened = Pinger(host)
    opened.wait_answer(20)
    yield opened
    opened.close()


def main_pid(host: PhysicalHost) -> str:
    return host.say("systemctl show -P MainPID caas-agent").strip()


def box_init(host: PhysicalHost) -> str:
    """The container's init: its PID on the host, and when it began."""
    pid = host.say("lxc-info -P /var/lib/caas/agent/containers -n demo.box -p -H").strip()
    began = host.say(f"cut -d' ' -f22 /proc/{pid}/stat").strip()
    return f"{pid} {began}"


def links(host: PhysicalHost) -> dict[str, object]:
    """What is ours of links, by name, with their indices: a link made anew has another."""
    shown = json.loads(host.say("ip -json -details link show"))
    return {one["ifname"]: one["ifindex"] for one in shown if str(one.get("ifalias", "")).startswith("caas:")}


def check_unharmed(host: PhysicalHost, pinger: Pinger, before: tuple[str, dict[str, object]]) -> None:
    lost = sorted(set(range(pinger.sent)) - pinger.answered)
    assert pinger.sent > SENT_LEAST
    assert not lost, f"{len(lost)} of {pinger.sent} were lost: {lost[:20]}"
    assert (box_init(host), links(host)) == before


@pytest.mark.slow
def test_the_agent_is_restarted_and_no_packet_is_lost(host: PhysicalHost, pinger: Pinger) -> None:
    before, agent = (box_init(host), links(host)), main_pid(host)
    with pinger.running():
        host.say("systemctl restart caas-agent")
        poll_until(lambda: main_pid(host) not in (agent, "0"), deadline=20, describe=host.journal)
    check_unharmed(host, pinger, before)


@pytest.mark.slow
def test_the_agent_is_killed_and_no_packet_is_lost(host: PhysicalHost, pinger: Pinger) -> None:
    before, agent = (box_init(host), links(host)), main_pid(host)
    with pinger.running():
        host.say(f"kill -9 {agent}")
        poll_until(lambda: main_pid(host) not in (agent, "0"), deadline=20, describe=host.journal)
        host.wait_agent()
    check_unharmed(host, pinger, before)


@pytest.mark.slow
def test_what_starts_containers_is_restarted_and_no_container_is(host: PhysicalHost, pinger: Pinger) -> None:
    before = box_init(host), links(host)
    with pinger.running():
        host.say("systemctl restart caas-containers && systemctl restart caas-agent")
    check_unharmed(host, pinger, before)


@pytest.mark.slow
def test_the_host_is_rebooted_and_comes_back_by_itself(host: PhysicalHost, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "ip -json -details addr show; ip -json route show table all"
    before, boot, ours = host.say(shown), host.boot(), links(host)
    assert {"lxcbr100", "eth1.100", "t192.168.2.26"} <= ours.keys()
    assert before
    began = time.monotonic()
    host.say("systemctl reboot")
    host.wait_agent(not_boot=boot)
    pinger = Pinger(host)
    pinger.wait_answer(20)
    pinger.close()
    with capsys.disabled():
        print(f"\nrebooted and back in {time.monotonic() - began:.1f} s")
    assert links(host).keys() == ours.keys()
    assert "10.9.2.0/24 dev t192.168.2.26" in host.say("ip route show table all")
    with Tap(host.netns, "mgmt") as tap:
        host.say(
            f"ip neigh replace {FAR} lladdr 02:00:00:00:00:ab dev eth0; ping -c 1 -W 0.2 -I 10.9.1.1 10.9.2.2 || :"
        )
        outer = tap.collect(lambda frame: frame.ethertype == 0x0800 and frame.payload[9] == 4, timeout=1.0)
    assert [(IP(frame.payload).src, IP(frame.payload).dst) for frame in outer] == [(ADDRESS, str(FAR))]
    assert "1 of 1 containers stopped" in host.say("journalctl --boot=-1 --no-pager -u caas-halt -o cat")
    assert "not restored" not in host.say("journalctl --boot --no-pager -u caas-agent -o cat")
    assert host.say("systemctl --failed --no-legend --plain") == ""
    assert COORDINATOR not in host.say("ss -Htn state established sport = :7443")


@pytest.mark.slow
def test_containers_have_nothing_of_the_agents_sandbox(host: PhysicalHost) -> None:
    pid = box_init(host).split()[0]
    status = dict(line.split(":\t", 1) for line in host.say(f"cat /proc/{pid}/status").splitlines())
    assert status["NoNewPrivs"] == "0"
    # What liblxc's common.conf takes away: mac_admin, mac_override, sys_time, sys_module, sys_rawio.
    dropped = (1 << 33) | (1 << 32) | (1 << 25) | (1 << 16) | (1 << 17)
    own = int(host.say("grep CapBnd /proc/1/status").split()[1], 16)
    assert int(status["CapBnd"], 16) == own & ~dropped
    agent = host.say(f"cat /proc/{main_pid(host)}/status")
    assert "NoNewPrivs:\t1" in agent


@pytest.mark.slow
def test_natbox_and_coordinator_do_their_work_in_their_sandboxes(host: PhysicalHost) -> None:
    table = make_table(make_gateway(Station(vid=VID, mac=BOX_MAC)))
    request = json_format.MessageToJson(natbox_pb2.NatBoxApplyRequest(desired=gateway_table_to_wire(table))).encode()
    certificates = host.folder / "certificates"
    said = ask(host, certificates, "tests.support.natbox_client", PORT + 1, "Apply", request)
    assert "kernelWrites" in said
    host.say("systemctl restart caas-natbox")
    assert "1 clusters in force, 0 kernel writes" in host.say("journalctl --no-pager -u caas-natbox -o cat")
    assert json.loads(host.say("caas status --json")) == {"clusters": []}
    assert host.say("systemctl show -P User caas-coordinator").strip() == "caas"
