"""What a tunnel carries and what it must not, seen on the wire and in a box behind it: the same for every realisation.

The far end is bare wire: what comes from there is written byte by byte.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from agent.kernel import tunnel_sources as why
from agent.kernel.door import NetlinkDoor
from tests.netns.conftest import TUNNELS
from tests.support import oracle
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, WIRE_MAC, Site, poll_until, run
from tests.support.tunnelled import BOX_MACS, MTU, add_box, make, make_container, make_end
from tests.support.wire import Frame, Tap

COOKIE, END = b"caas-tunnel-", b"the end"
#: By the host's own stack, and for BPF also straight into the container.
WAYS = [*TUNNELS, pytest.param("bpf straight", id="bpf-straight")]


@dataclass
class Joined:
    """A host with a tunnel to the wire, whose own hand answers there."""

    site: Site
    door: NetlinkDoor
    way: str
    host_mac: str
    box: Tap
    wire: Tap

    def outer(self, **fields: object) -> Packet:
        header: dict[str, Any] = {"src": WIRE_ADDRESS, "dst": HOST_ADDRESS, "flags": "DF"} | fields
        return Ether(src=WIRE_MAC, dst=self.host_mac) / IP(**header)

    def arrives(self, frame: Packet | bytes) -> list[Frame]:
        """What the box gets of *frame* before a good packet that follows it."""
        self.box.drain()
        self.wire.send(bytes(frame))
        self.wire.send(bytes(self.outer() / inner(END)))
        return self._until_end(self.box)

    def leaves(self, packet: Packet) -> list[Frame]:
        """What comes on the wire of a *packet* of the box's."""
        self.wire.drain()
        gateway = oracle.links(self.site.host)["lxcbr0"]["address"]
        self.box.send(bytes(Ether(src=BOX_MACS[1], dst=gateway) / packet))
        return self.leaves_until_end()

    def leaves_until_end(self) -> list[Frame]:
        """What comes on the wire before a good packet of the box's."""
        gateway = oracle.links(self.site.host)["lxcbr0"]["address"]
        good = IP(src="10.9.1.2", dst="10.9.2.2") / UDP() / Raw(END)
        self.box.send(bytes(Ether(src=BOX_MACS[1], dst=gateway) / good))
        return self._until_end(self.wire)

    def _until_end(self, tap: Tap) -> list[Frame]:
        found: list[Frame] = []

        def look() -> bool:
            found.extend(tap.drain())
            return any(END in each.data for each in found)

        poll_until(look, deadline=10, describe=lambda: found)
        found.extend(tap.drain())
        return [each for each in found if END not in each.data and each.ethertype == 0x0800]


def inner(text: bytes, **fields: object) -> Packet:
    header: dict[str, Any] = {"src": "10.9.2.2", "dst": "10.9.1.2", "ttl": 9} | fields
    return IP(**header) / UDP(sport=1, dport=9) / Raw(COOKIE + text)


@pytest.fixture(scope="module", params=WAYS)
def joined(request: pytest.FixtureRequest) -> Iterator[Joined]:
    site = Site()
    realisation, _, straight = request.param.partition(" ")
    try:
        with NetlinkDoor(netns=site.host, ipip=realisation) as door:
            make(door, make_end(1))
            box = add_box(site, 1)
            # The wire has no stack that answers: only what is sent by hand comes from there.
            mac = oracle.links(site.host)["eth1"]["address"]
            run(
                f"ip link set eth1 arp off && ip -n {site.host} neigh replace {WIRE_ADDRESS} lladdr {WIRE_MAC} dev eth1"
                f" && echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all",
                netns=site.wire,
            )
            run(f"ip -n {site.host} neigh replace {WIRE_ADDRESS} lladdr {WIRE_MAC} dev eth1 nud permanent")
            run(f"ip -n {site.host} neigh replace 10.9.1.2 lladdr {BOX_MACS[1]} dev lxcbr0 nud permanent")
            if straight:
                door.set_port_mark(make_container(1))
            with Tap(box, "eth0") as box_tap, Tap(site.wire, "eth1") as wire_tap:
                made = Joined(site, door, request.param, mac, box_tap, wire_tap)
                poll_until(lambda: oracle.links(site.host)["lxcbr0"]["operstate"] == "UP", deadline=10)
                yield made
    finally:
        site.close()


def test_what_leaves_has_an_outer_header_and_is_otherwise_as_routed(joined: Joined) -> None:
    packet = IP(src="10.9.1.2", dst="10.9.2.2", ttl=33, tos=0xB9, id=77) / UDP(sport=5, dport=6) / Raw(COOKIE)
    (seen,) = joined.leaves(packet)
    outer = IP(seen.payload)
    assert (outer.src, outer.dst, outer.proto, outer.ihl, outer.ttl) == (HOST_ADDRESS, WIRE_ADDRESS, 4, 5, 64)
    assert outer.flags == "DF"
    assert outer.tos == 1, "of the inner header only what it says of congestion"
    assert outer.len == len(packet) + 20
    assert bytes(outer)[:20] == bytes(recompute(IP(bytes(outer)[:20])))
    expected = packet.copy()
    expected.ttl -= 1
    assert bytes(outer.payload) == bytes(expected)
    assert (seen.source, seen.destination) == (joined.host_mac, WIRE_MAC)


def test_connections_begin_with_segments_that_the_tunnel_carries(joined: Joined) -> None:
    syn = IP(src="10.9.1.2", dst="10.9.2.2") / TCP(sport=1, dport=9, flags="S", options=[("MSS", 1460)]) / Raw(COOKIE)
    (seen,) = joined.leaves(syn)
    assert dict(IP(seen.payload)[TCP].options)["MSS"] == MTU - 40


def recompute(header: IP) -> IP:
    del header.chksum
    return header


def test_what_comes_loses_its_outer_header_and_is_otherwise_as_routed(joined: Joined) -> None:
    packet = inner(b"good")
    (seen,) = joined.arrives(joined.outer() / packet)
    packet.ttl -= 1
    assert seen.payload == bytes(packet)
    assert seen.destination == BOX_MACS[1]
    assert seen.source == oracle.links(joined.site.host)["lxcbr0"]["address"]


def test_whether_it_goes_straight_is_seen_at_the_bridge(joined: Joined) -> None:
    with Tap(joined.site.host, "lxcbr0", own=True) as bridge:
        assert joined.arrives(joined.outer() / inner(b"where"))
        # The box's own answer, that nobody listens, quotes the packet.
        passed = any(b"where" in each.data and IP(each.payload).src == "10.9.2.2" for each in bridge.drain())
    assert passed == (joined.way != "bpf straight")


GOOD = {
    "first of the block": inner(b"x", src="10.9.2.0"),
    "last of the block": inner(b"x", src="10.9.2.255"),
    "inner fragment": inner(b"x", flags="MF", id=3),
    "inner options": inner(b"x", options=[IPOption_NOP()] * 4),
    "tcp": IP(src="10.9.2.2", dst="10.9.1.2") / TCP(flags="A") / Raw(COOKIE),
    "icmp": IP(src="10.9.2.2", dst="10.9.1.2") / ICMP(type=8) / Raw(COOKIE),
    "longest": inner(b"x" * (1480 - 28 - len(COOKIE))),
    "shortest": IP(src="10.9.2.2", dst="10.9.1.2", proto=253),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_packets_arrive(joined: Joined, name: str) -> None:
    (seen,) = joined.arrives(joined.outer() / GOOD[name])
    expected = GOOD[name].copy()
    expected.ttl -= 1
    assert seen.payload[: len(expected)] == bytes(expected)


@dataclass(frozen=True)
class Attack:
    """A frame that must not arrive, and the reason that it is counted under ("": none of ours)."""

    make: Callable[[Joined], Packet | bytes]
    reason: str


def raw(j: Joined, packet: Packet, **changes: int) -> bytes:
    """The tunnelled packet with bytes changed at places counted from the outer header, and the outer checksum right."""
    data = bytearray(bytes(j.outer() / packet))
    for place, value in changes.items():
        data[14 + int(place[1:])] = value
    data[24:26] = b"\0\0"
    data[24:26] = struct.pack("!H", checksum(bytes(data[14:34])))
    return bytes(data)


def checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def nested(j: Joined) -> Packet:
    return j.outer() / IP(src="10.9.2.2", dst=HOST_ADDRESS) / inner(b"x")


ATTACKS = {
    "stranger": Attack(lambda j: j.outer(src="192.168.2.99") / inner(b"x"), why.REMOTE),
    "source of nobody": Attack(lambda j: j.outer() / inner(b"x", src="8.8.8.8"), why.SOURCE),
    "source beside the block": Attack(lambda j: j.outer() / inner(b"x", src="10.9.3.0"), why.SOURCE),
    "source of the underlay": Attack(lambda j: j.outer() / inner(b"x", src=WIRE_ADDRESS), why.SOURCE),
    "source of this end": Attack(lambda j: j.outer() / inner(b"x", src=HOST_ADDRESS), why.SOURCE),
    "source loopback": Attack(lambda j: j.outer() / inner(b"x", src="127.0.0.1"), why.SOURCE),
    "source nothing": Attack(lambda j: j.outer() / inner(b"x", src="0.0.0.0"), why.SOURCE),
    "source of a neighbour": Attack(lambda j: j.outer() / inner(b"x", src="10.9.1.3"), why.OWN_SOURCE),
    "source of the gateway": Attack(lambda j: j.outer() / inner(b"x", src="10.9.1.1"), why.OWN_SOURCE),
    "source of itself": Attack(lambda j: j.outer() / inner(b"x", src="10.9.1.2"), why.OWN_SOURCE),
    "first fragment": Attack(lambda j: j.outer(flags="MF") / inner(b"x"), why.FRAGMENT),
    "last fragment": Attack(lambda j: j.outer(flags=0, frag=3) / inner(b"x"), why.FRAGMENT),
    "options": Attack(lambda j: j.outer(options=[IPOption_NOP()] * 4) / inner(b"x"), why.OPTIONS),
    "ipip in ipip": Attack(nested, why.NESTED),
    "bare": Attack(lambda j: Ether(src=WIRE_MAC, dst=j.host_mac) / inner(b"x"), why.BARE),
    "outer checksum": Attack(lambda j: j.outer(chksum=0x1234) / inner(b"x"), why.CHECKSUM),
    "inner checksum": Attack(lambda j: j.outer() / inner(b"x", chksum=0x1234), why.CHECKSUM),
    "inner version 6": Attack(lambda j: raw(j, inner(b"x"), _20=0x65), why.MALFORMED),
    "inner header too short": Attack(lambda j: raw(j, inner(b"x"), _20=0x44), why.MALFORMED),
    "inner cut": Attack(lambda j: j.outer(proto=4) / Raw(bytes(inner(b"x"))[:12]), why.MALFORMED),
    "no inner": Attack(lambda j: j.outer(proto=4), why.MALFORMED),
    "inner longer than outer": Attack(lambda j: j.outer() / inner(b"x", len=999), why.MALFORMED),
    "outer longer than the frame": Attack(lambda j: j.outer(len=999) / inner(b"x"), why.MALFORMED),
    "congestion untold": Attack(lambda j: j.outer(tos=3) / inner(b"x"), why.MALFORMED),
    "to another's mac": Attack(
        lambda j: Ether(src=WIRE_MAC, dst="02:00:00:00:00:99") / IP(src=WIRE_ADDRESS, dst=HOST_ADDRESS) / inner(b"x"),
        "",
    ),
    "tagged": Attack(
        lambda j: bytes(j.outer() / inner(b"x"))[:12] + b"\x81\x00\x00\x07" + bytes(j.outer() / inner(b"x"))[12:], ""
    ),
    "to another address": Attack(lambda j: j.outer(dst="192.168.2.77") / inner(b"x"), ""),
    "hops used up": Attack(lambda j: j.outer() / inner(b"x", ttl=1), ""),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_must_not_arrive_does_not_and_is_counted(joined: Joined, name: str) -> None:
    attack = ATTACKS[name]
    before = joined.door.tunnel_drops()
    assert joined.arrives(attack.make(joined)) == []
    after = joined.door.tunnel_drops()
    counted = {reason: after[reason] - before[reason] for reason in after if after[reason] != before[reason]}
    assert counted == ({attack.reason: 1} if attack.reason else {})


def test_a_route_that_is_wider_than_our_own_block_makes_no_source_of_ours_theirs(joined: Joined) -> None:
    wide = replace(make_end(1).routes[0], dst=IPv4Network("10.9.0.0/16"))
    joined.door.create(wide)
    try:
        before = joined.door.tunnel_drops()
        assert joined.arrives(joined.outer() / inner(b"neighbour", src="10.9.1.3")) == []
        (seen,) = joined.arrives(joined.outer() / inner(b"far", src="10.9.3.3"))
        (answer,) = joined.leaves(IP(src="10.9.1.2", dst="10.9.3.3") / UDP(dport=9) / Raw(COOKIE + b"answer"))
        after = joined.door.tunnel_drops()
    finally:
        joined.door.delete(wide)
    assert b"far" in seen.data
    assert b"answer" in answer.data
    assert after == {**before, why.OWN_SOURCE: before[why.OWN_SOURCE] + 1}


def test_congestion_on_the_way_is_told_inside(joined: Joined) -> None:
    (seen,) = joined.arrives(joined.outer(tos=3) / inner(b"x", tos=0x12))
    assert IP(seen.payload).tos == 0x13
    assert bytes(IP(seen.payload))[:20] == bytes(recompute(IP(seen.payload[:20])))


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="10.9.1.2", dst="10.9.2.2") / IP(src="10.9.1.2", dst="10.9.2.2") / UDP() / Raw(COOKIE),
        IP(src="10.9.1.2", dst="10.9.2.2", flags="DF") / UDP() / Raw(COOKIE + b"x" * 1452),
        IP(src="10.9.1.2", dst="10.9.2.2", ttl=1) / UDP() / Raw(COOKIE),
    ],
    ids=["ipip in ipip", "too long", "hops used up"],
)
def test_what_must_not_leave_does_not(joined: Joined, packet: Packet) -> None:
    assert joined.leaves(packet) == []


def test_what_is_no_ipv4_does_not_leave(joined: Joined) -> None:
    name = f"t{WIRE_ADDRESS}"
    packets = [
        IPv6(src="fd00::1", dst="fd00::2") / UDP() / Raw(COOKIE),
        IP(src="10.9.1.2", dst="10.9.2.2") / UDP() / Raw(COOKIE),
    ]
    joined.wire.drain()
    with Tap(joined.site.host, name, own=True) as tunnel:
        for packet in packets:
            header = Ether(dst=oracle.links(joined.site.host)[name]["address"]) if joined.way != "kernel" else b""
            with contextlib.suppress(OSError):  # ENOBUFS: it was dropped at once
                tunnel.send(bytes(header / packet) if header else bytes(packet))
    left = [frame for frame in joined.leaves_until_end() if COOKIE in frame.data]
    assert [bytes(IP(frame.payload).payload) for frame in left] == [bytes(packets[1])]
