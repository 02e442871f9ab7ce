"""Between a container and a tunnel of ours packets pass the host's own stack by, and what the stack would do is done.

The stack counts what it forwards (Ip: ForwDatagrams, RFC 4293), so it tells which way a packet took.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Forward, Masquerade, Route
from tests.support import oracle
from tests.support.netns import Site, poll_until, run
from tests.support.tunnelled import BOX_MACS, ENDS, MTU, add_box, make, make_container, make_end, make_tunnel
from tests.support.wire import Frame, Tap

COOKIE, END = b"caas-straight-", b"the end"


def forwarded(netns: str) -> int:
    names, numbers = (
        line.split() for line in run("cat /proc/net/snmp", netns=netns).splitlines() if line.startswith("Ip:")
    )
    return int(numbers[names.index("ForwDatagrams")])


@dataclass
class Straight:
    """Two hosts, a box behind each; what the first box sends is written byte by byte."""

    site: Site
    first: NetlinkDoor
    second: NetlinkDoor
    one: Tap
    other: Tap

    def send(self, packet: Packet) -> tuple[list[Frame], int]:
        """What of *packet* comes to the other box, and how many packets the sender's host forwarded meanwhile."""
        gateway = oracle.links(self.site.host)["lxcbr0"]["address"]
        frame = Ether(src=BOX_MACS[1], dst=gateway)
        self.other.drain()
        before = forwarded(self.site.host)
        self.one.send(bytes(frame / packet))
        # The end goes by the stack, whatever the others do.
        self.one.send(bytes(frame / IP(src="10.9.1.2", dst="10.9.2.2", options=[IPOption_NOP()] * 4) / UDP() / END))
        found: list[Frame] = []

        def look() -> bool:
            found.extend(self.other.drain())
            return any(END in each.data for each in found)

        poll_until(look, deadline=10, describe=lambda: found)
        return [each for each in found if COOKIE in each.data], forwarded(self.site.host) - before - 1


@contextmanager
def join(site: Site) -> Iterator[Straight]:
    with NetlinkDoor(netns=site.host, ipip="bpf") as first, NetlinkDoor(netns=site.wire, ipip="bpf") as second:
        for number, door in ((1, first), (2, second)):
            make(door, make_end(number))
        boxes = [add_box(site, number) for number in (1, 2)]
        for number, door in ((1, first), (2, second)):
            door.set_port_mark(make_container(number))
        poll_until(lambda: run("ping -c 1 -W 1 10.9.2.2 && echo yes", netns=boxes[0], check=False), deadline=15)
        run("ip route del default", netns=boxes[1])  # it hears, and says nothing
        with Tap(boxes[0], "eth0") as one, Tap(boxes[1], "eth0") as other:
            yield Straight(site, first, second, one, other)


@pytest.fixture(scope="module")
def straight() -> Iterator[Straight]:
    site = Site()
    try:
        with join(site) as joined:
            yield joined
    finally:
        site.close()


@pytest.fixture
def alone(site: Site) -> Iterator[Straight]:
    """For a test that leaves it other than it was."""
    with join(site) as joined:
        yield joined


def make_packet(**fields: Any) -> Packet:
    header: dict[str, Any] = {"src": "10.9.1.2", "dst": "10.9.2.2", "ttl": 9, "id": 5, "flags": "DF"} | fields
    return IP(**header) / UDP(sport=1, dport=9) / Raw(COOKIE)


@pytest.mark.parametrize(
    "packet",
    [
        make_packet(),
        make_packet(tos=0xB9),
        make_packet(ttl=3),
        make_packet() / Raw(b"x" * (MTU - len(make_packet()))),
        IP(src="10.9.1.2", dst="10.9.2.2", ttl=9) / TCP(sport=1, dport=9, flags="A") / Raw(COOKIE),
        IP(src="10.9.1.2", dst="10.9.2.2", ttl=9, flags="MF") / Raw(COOKIE + b"x" * 10),
        IP(src="10.9.1.2", dst="10.9.2.2", ttl=9, frag=8, proto=6) / Raw(COOKIE + b"x" * 10),
        IP(src="10.9.1.2", dst="10.9.2.2", ttl=9) / ICMP(type=0) / Raw(COOKIE),
    ],
    ids=["plain", "tos", "hops", "full", "tcp", "first fragment", "later fragment", "echo"],
)
def test_a_plain_packet_is_not_seen_by_the_stack_and_arrives_as_routed(straight: Straight, packet: Packet) -> None:
    (seen,), forwards = straight.send(packet)
    assert forwards == 0
    expected = IP(bytes(packet))
    expected.ttl -= 2
    del expected.chksum
    assert seen.payload == bytes(expected)


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="10.9.1.2", dst="10.9.2.2", options=[IPOption_NOP()] * 4) / UDP(dport=9) / Raw(COOKIE),
        make_packet(src="10.9.1.77"),
    ],
    ids=["options", "source of no container"],
)
def test_what_is_not_plain_is_the_stacks(straight: Straight, packet: Packet) -> None:
    (_,), forwards = straight.send(packet)
    assert forwards == 1


def test_connections_begin_with_segments_that_the_tunnel_carries(straight: Straight) -> None:
    syn = IP(src="10.9.1.2", dst="10.9.2.2") / TCP(sport=1, dport=9, flags="S", options=[("MSS", 1460)]) / Raw(COOKIE)
    (seen,), forwards = straight.send(syn)
    assert dict(IP(seen.payload)[TCP].options)["MSS"] == MTU - 40
    assert forwards == 1


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (make_packet(ttl=1), (11, 0)),
        (make_packet() / Raw(b"x" * (MTU + 1 - len(make_packet()))), (3, 4)),
        (make_packet(dst="10.9.3.3"), (3, 0)),
    ],
    ids=["hops used up", "too long", "no route"],
)
def test_what_cannot_go_on_is_answered(straight: Straight, packet: Packet, kind: tuple[int, int]) -> None:
    straight.one.drain()
    assert straight.send(packet)[0] == []
    answers = [IP(each.payload) for each in straight.one.drain() if each.ethertype == 0x0800]
    said = [(each.src, each[ICMP].type, each[ICMP].code) for each in answers if ICMP in each]
    assert said == [("10.9.1.1", *kind)]


@pytest.mark.parametrize(
    "packet", [make_packet(chksum=0x1234), make_packet(src="10.9.2.9"), make_packet(src="192.0.2.9")]
)
def test_what_the_stack_drops_does_not_pass_it_by(straight: Straight, packet: Packet) -> None:
    run("echo 1 > /proc/sys/net/ipv4/conf/lxcbr0/rp_filter", netns=straight.site.host)
    before = straight.second.tunnel_drops()
    assert straight.send(packet) == ([], 0)
    assert straight.second.tunnel_drops() == before, "the far end had to drop it"


def test_a_rule_that_is_asked_first_holds(straight: Straight) -> None:
    rule = "rule {} from 10.9.1.2 iif lxcbr0 tos 0x10 lookup 77 priority 50"
    run(f"ip {rule.format('add')} && ip route add blackhole default table 77", netns=straight.site.host)
    try:
        assert straight.send(make_packet(tos=0x10))[0] == []
    finally:
        run(f"ip {rule.format('del')} && ip route flush table 77", netns=straight.site.host)
    assert len(straight.send(make_packet(tos=0x10))[0]) == 1


def test_what_is_masqueraded_goes_by_the_stack(alone: Straight) -> None:
    """What it exempts is not: the last packet of each `send`, here."""
    exempt = (IPv4Network("10.9.2.2/32"),)
    masquerade = Masquerade(source=IPv4Network("10.9.1.0/24"), exempt=exempt, mark=Mark("demo", "lan"))
    wider = replace(masquerade, exempt=(IPv4Network("10.9.2.0/24"),))
    packet = make_packet(dst="10.9.2.3")
    alone.first.create(masquerade)
    assert alone.send(packet)[1] == 1
    assert alone.send(make_packet())[1] == 0
    alone.first.change(masquerade, wider)
    assert alone.send(packet)[1] == 0
    alone.first.change(wider, masquerade)
    assert alone.send(packet)[1] == 1
    alone.first.delete(masquerade)
    assert alone.send(packet)[1] == 0


def test_a_container_that_a_port_is_forwarded_to_answers_by_the_stack(alone: Straight) -> None:
    forward = Forward(address=ENDS[1], port=1222, to=IPv4Address("10.9.1.2"), to_port=22, mark=Mark("demo", "box1"))
    alone.first.create(forward)
    assert alone.send(make_packet())[1] == 1
    with NetlinkDoor(netns=alone.site.host, ipip="bpf") as restarted:
        restarted.adopt_ports([make_container(1)])
        assert alone.send(make_packet())[1] == 1
    alone.first.delete(forward)
    assert alone.send(make_packet())[1] == 0


@pytest.mark.parametrize("hook", ["prerouting", "forward", "postrouting"])
def test_where_others_have_rules_all_goes_by_the_stack(alone: Straight, hook: str) -> None:
    chain = f"{{ type filter hook {hook} priority 0; }}"
    run(f"nft 'add table ip theirs; add chain ip theirs c {chain}'", netns=alone.site.host)
    more = Route(dst=IPv4Network("10.9.8.0/24"), dev=make_tunnel(1).name)
    alone.first.create(more)
    (_,), forwards = alone.send(make_packet())
    assert forwards == 1
    run("nft delete table ip theirs", netns=alone.site.host)
    alone.first.delete(more)
    (_,), forwards = alone.send(make_packet())
    assert forwards == 0


def test_a_restarted_agent_finds_the_bridge_as_it_was(alone: Straight) -> None:
    alone.first.close()
    with NetlinkDoor(netns=alone.site.host, ipip="bpf") as restarted:
        restarted.adopt_ports([make_container(1)])
        assert restarted.writes == 0
        assert alone.send(make_packet())[1] == 0


def test_a_restarted_agent_that_has_only_looked_knows_what_is_translated(alone: Straight) -> None:
    masquerade = Masquerade(
        source=IPv4Network("10.9.1.0/24"), exempt=(IPv4Network("10.9.2.2/32"),), mark=Mark("demo", "lan")
    )
    alone.first.create(masquerade)
    alone.first.close()
    run("ip link set demo.box1 alias ''", netns=alone.site.host)
    with NetlinkDoor(netns=alone.site.host, ipip="bpf") as restarted:
        restarted.observe()
        restarted.set_port_mark(make_container(1))
        assert alone.send(make_packet(dst="10.9.2.3"))[1] == 1
        assert alone.send(make_packet())[1] == 0


def test_it_goes_with_the_last_tunnel(alone: Straight) -> None:
    at_bridge = "tc filter show dev lxcbr0 ingress; tc qdisc show dev lxcbr0"
    assert "bpf" in run(at_bridge, netns=alone.site.host)
    alone.first.delete(make_tunnel(1))
    assert "bpf" not in (found := run(at_bridge, netns=alone.site.host))
    assert "clsact" not in found
