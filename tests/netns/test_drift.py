"""What others change of ours is back within two seconds, and told: an agent's host over its real doors.

The changes are made, and looked at, by iproute2, tc and nft.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from agent.core.drift import DriftLog
from agent.host import Host
from agent.kernel.door import NetlinkDoor
from agent.kernel.ports import Ports
from agent.kernel.watch import Watcher
from agent.mending import Mender
from agent.saved import SavedStates
from coordinator.compiling import compile_cluster
from coordinator.config import load_bytes
from proto.marks import TUNNEL_RULE_PRIORITY, TUNNEL_TABLE
from proto.model import Rule
from tests.support.netns import Namespaces, poll_until, run
from tests.support.world import Boxes

DEADLINE = 2.0
FILE = """\
name: demo
hosts:
  host1: {address: 192.168.1.25, trunk: eth1}
  host2: {address: 192.168.1.26, trunk: eth1}
networks:
  tagged: {vlan: 100, subnet: 10.8.0.0/24}
  lan: {subnet: 10.9.1.0/24, overlay: ipip}
containers:
  a1: {host: host1, network: lan, roles: [controller]}
  a2: {host: host1, network: tagged, address: 10.8.0.12, roles: [compute]}
  b1: {host: host2, network: lan, roles: [compute]}
"""


RULE = Rule(
    priority=TUNNEL_RULE_PRIORITY,
    src=IPv4Network("10.9.1.0/24"),
    dst=IPv4Network("192.168.1.26/32"),
    table=TUNNEL_TABLE,
)


class Watched:
    """A host whose underlay leads nowhere, and its agent's watch."""

    def __init__(self, folder: Path) -> None:
        self.spaces = Namespaces()
        self.netns = self.spaces.add("host1")
        run(
            f"ip -n {self.netns} link add eth0 type veth peer name far0"
            f" && ip -n {self.netns} link add eth1 type veth peer name far1"
            f" && ip -n {self.netns} -batch - <<END\n"
            "link set eth0 up\nlink set far0 up\nlink set eth1 up\nlink set far1 up\n"
            "address add 192.168.1.25/24 dev eth0\nroute add default via 192.168.1.254\nEND\n"
        )
        self.on("echo 1 > /proc/sys/net/ipv4/conf/eth0/forwarding")
        self.door, self.boxes = NetlinkDoor(netns=self.netns), Boxes(self.spaces, self.netns)
        self.host = Host("host1", self.door, self.boxes, SavedStates(folder))
        desired = compile_cluster(load_bytes(FILE.encode(), file="demo.yaml")).hosts["host1"]
        self.desired = replace(desired, state=replace(desired.state, rules=(RULE,)))
        self.host.apply(self.desired, on_plan=lambda _: None, on_done=lambda _: None)

    @contextmanager
    def watch(self) -> Iterator[Mender]:
        """A watch that has looked once and knows of no fights."""
        with closing(Watcher(netns=self.netns)) as watcher, closing(Ports(netns=self.netns)) as ports:
            mender = Mender(self.host, watcher, ports)
            assert mender.look(()) is not None
            mender.start()
            try:
                yield mender
            finally:
                mender.close()

    def on(self, command: str) -> str:
        return run(command, netns=self.netns)

    def holds(self, check: str) -> bool:
        return run(f"{{ {check}; }} >/dev/null 2>&1 && echo yes", netns=self.netns, check=False) == "yes\n"

    def close(self) -> None:
        self.door.close()
        self.boxes.close()
        self.spaces.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(tmp_path_factory.mktemp("drift"))
    yield made
    made.close()


#: What somebody does; which object is told; what is true once it is mended.
BREAKS = {
    "address": ("ip address del 10.9.1.1/24 dev lxcbr0", "address", "ip -o address show lxcbr0 | grep 10.9.1.1/24"),
    "second address": (
        "ip address add 10.77.0.1/24 dev lxcbr0",
        "address",
        "! ip -o address show lxcbr0 | grep 10.77.0.1/24",
    ),
    "route": ("ip route del 10.9.2.0/24", "route", "ip route show 10.9.2.0/24 | grep 'dev t192.168.1.26'"),
    "routes": ("ip route flush proto 202", "route", "ip route show 10.9.2.0/24 | grep 'dev t192.168.1.26'"),
    "rule": ("ip rule del priority 3232", "rule", "ip rule show priority 3232 | grep 10.9.1.0/24"),
    "nft": ("nft flush ruleset", "masquerade", "nft list ruleset | grep masquerade"),
    "vlan": ("ip link del eth1.100", "vlan", "ip -o link show eth1.100 | grep UP.*master.lxcbr100"),
    "tunnel": (
        "ip link del t192.168.1.26",
        "ipip",
        "ip -o link show t192.168.1.26 | grep UP && ip route show 10.9.2.0/24 | grep t192.168.1.26",
    ),
    "bridge": (
        "ip link del lxcbr0",
        "bridge",
        "ip -o address show lxcbr0 | grep 10.9.1.1/24 && ip -o link show demo.a1 | grep UP.*master.lxcbr0"
        " && ip route show 10.9.2.0/24 | grep t192.168.1.26",
    ),
    "down": (
        "ip link set t192.168.1.26 down",
        "link",
        "ip -o link show t192.168.1.26 | grep ,UP && ip route show 10.9.2.0/24 | grep t192.168.1.26",
    ),
    "bridge down": ("ip link set lxcbr100 down", "link", "ip -o link show lxcbr100 | grep ,UP"),
    "vlan down": ("ip link set eth1.100 down", "link", "ip -o link show eth1.100 | grep ,UP"),
    "mtu": ("ip link set lxcbr0 mtu 1400", "bridge", "ip -o link show lxcbr0 | grep 'mtu 1480 '"),
    "name": (
        "ip link set lxcbr0 name hers",
        "bridge",
        "ip -o link show demo.a1 | grep UP.*master.lxcbr0 && ip -o address show lxcbr0 | grep 10.9.1.1/24",
    ),
    "vlan's name": (
        "ip link set eth1.100 name hers",
        "vlan",
        "ip -o link show eth1.100 | grep UP.*master.lxcbr100 && ! ip link show hers",
    ),
    "port": ("ip link set demo.a1 nomaster", "port", "ip -o link show demo.a1 | grep UP.*master.lxcbr0"),
    "port taken": ("ip link set demo.a1 master lxcbr100", "port", "ip -o link show demo.a1 | grep UP.*master.lxcbr0"),
    "port down": ("ip link set demo.a1 down", "port", "ip -o link show demo.a1 | grep ,UP"),
    "port's mark": ("ip link set demo.a1 alias ''", "container", "ip link show demo.a1 | grep alias.caas:demo:a1"),
}
TOLD_WITH_WHOM = ("address", "route", "rule", "masquerade")
#: Only where the VLAN is the BPF one.
BPF_BREAKS = {
    "trunk's filter": ("tc qdisc del dev eth1 clsact", "vlan", "tc filter show dev eth1 ingress | grep bpf"),
    "tunnel's filter": ("tc filter del dev eth0 ingress", "ipip", "tc filter show dev eth0 ingress | grep bpf"),
}


@pytest.mark.parametrize("name", [*BREAKS, *BPF_BREAKS])
def test_what_others_break_is_back_within_two_seconds_and_told(host: Watched, name: str) -> None:
    command, kind, check = (BREAKS | BPF_BREAKS)[name]
    if name in BPF_BREAKS and host.door.datapath().vlan != "bpf":
        pytest.skip("the kernel's own VLANs have no filters")
    assert host.holds(check)
    with host.watch():
        host.host.drift = DriftLog()
        host.on(command)
        began = time.monotonic()
        poll_until(host.host.drift.last, deadline=DEADLINE)
        poll_until(lambda: host.holds(check), deadline=DEADLINE, describe=host.host.drift.last)
        print(f"{name}: {time.monotonic() - began:.2f} s: {'; '.join(map(str, host.host.drift.last()))}")
        told = [event for event in host.host.drift.last() if event.kind == kind]
        assert told, host.host.drift.last()
        assert all(event.mended for event in host.host.drift.last()), host.host.drift.last()
        # What is set of a link, and a filter that is deleted, the kernel tells without whose wish it was.
        assert kind not in TOLD_WITH_WHOM or "pid " in told[0].by
        assert time.monotonic() - began < DEADLINE
    assert host.host.plan(host.desired) == ()


def test_a_container_that_ends_is_started_again(host: Watched) -> None:
    container = next(one for one in host.desired.state.containers if one.hostname == "a1")
    with host.watch():
        host.host.drift = DriftLog()
        host.boxes.stop(container)
        began = time.monotonic()
        poll_until(host.host.drift.last, deadline=DEADLINE)
        (event,) = host.host.drift.last()
        print(f"container: {time.monotonic() - began:.2f} s: {event}")
        assert (event.kind, event.name, event.mended) == ("container", "demo.a1", True)
    assert host.holds("ip -o link show demo.a1 | grep UP.*master.lxcbr0")
    assert host.host.plan(host.desired) == ()


def test_a_filter_that_drops_what_is_forwarded_is_told_and_left(host: Watched) -> None:
    with host.watch():
        host.host.drift = DriftLog()
        chain = "ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
        host.on(f"nft 'add table ip filter; add chain {chain}'")
        poll_until(host.host.drift.last, deadline=DEADLINE + 1)
        events = host.host.drift.last()
        assert {(event.kind, event.mended) for event in events} == {("obstacle", False)}
        assert "ip filter FORWARD" in events[0].found
        assert "nft insert rule ip filter FORWARD" in events[0].hint
        assert events[0].by.startswith("nft (pid ")
    assert "policy drop" in host.on("nft list chain ip filter FORWARD")
    host.on("nft delete table ip filter")


@pytest.mark.parametrize(
    "command",
    [
        "add table ip theirs; add chain ip theirs c { type filter hook forward priority 0; policy drop; }",
        "add table inet theirs; add chain inet theirs c { type filter hook prerouting priority 0; }",
    ],
    ids=["forward", "prerouting"],
)
def test_packets_do_not_pass_others_filters_by(host: Watched, command: str) -> None:
    """Tunnels' straight way to containers and from them is theirs only while nobody filters."""
    if host.door.datapath().ipip != "bpf":
        pytest.skip("the kernel's own tunnels have none")
    straight = "tc filter show dev lxcbr0 ingress | grep bpf"
    with host.watch():
        poll_until(lambda: host.holds(straight), deadline=DEADLINE)
        host.on(f"nft '{command}'")
        try:
            poll_until(lambda: not host.holds(straight), deadline=DEADLINE)
        finally:
            host.on(f"nft delete table {command.split()[2]} theirs")
        poll_until(lambda: host.holds(straight), deadline=DEADLINE)
        host.on("tc qdisc del dev lxcbr0 clsact")
        poll_until(lambda: host.holds(straight), deadline=DEADLINE)


def test_our_own_changes_are_not_heard_and_others_are(host: Watched) -> None:
    """Else each mend would be followed by a look, and each apply."""
    (rule,) = host.desired.state.rules
    bridge = next(link for link in host.desired.state.links if link.name == "lxcbr0")
    (masquerade,) = host.desired.state.masquerades
    (address,) = host.desired.state.addresses
    with closing(Watcher(netns=host.netns)) as watcher:
        host.door.delete(rule)
        host.door.create(rule)
        host.door.delete(masquerade)
        host.door.create(masquerade)
        host.on("bridge link set dev demo.a1 cost 7")
        assert watcher.wait(0) == []
        host.door.delete(address)
        host.door.create(address)
        host.door.change(bridge, bridge)
        watcher.wait(0)
        host.on("ip rule add priority 77 table 77; ip rule del priority 77; nft add table ip x; nft delete table ip x")
        heard = [*watcher.wait(1), *watcher.wait(0.1)]
    assert {touch.kind for touch in heard} == {"rule", "nft"}
    assert all("pid " in touch.by for touch in heard)
    host.host.apply(host.desired, on_plan=lambda _: None, on_done=lambda _: None)


def test_messages_that_were_lost_are_told(host: Watched) -> None:
    with closing(Watcher(netns=host.netns)) as watcher:
        watcher._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        lines = "".join(
            f"rule {verb} priority 78 table {number}\n" for number in range(1, 50) for verb in ("add", "del")
        )
        host.on(f"ip -batch - <<END\n{lines}END\n")
        assert {touch.kind for touch in watcher.wait(1)} == {"rule", "lost"}
        assert watcher.wait(0) == []
        host.on("ip rule add priority 78 table 78; ip rule del priority 78")
        assert {touch.kind for touch in watcher.wait(1)} == {"rule"}
