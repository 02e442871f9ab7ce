"""What the vxlan of a host carries and what it must not, seen on the wire and in a box behind it.

The far end is bare wire: what comes from there is written byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from agent.kernel import tunnel_sources as why
from agent.kernel.door import NetlinkDoor
from proto.errors import CaasError, Code
from proto.marks import HOST, Mark
from proto.model import Address, Bridge, HostState, Route, Vxlan
from tests.support import oracle
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, WIRE_MAC, Site, poll_until, run
from tests.support.tunnelled import BOX_MACS, add_box, make, remove
from tests.support.wire import Frame, Tap

COOKIE, END = b"caas-vxlan-", b"the end"
VNI, PORT = 0xCA5, 4789
#: 02:ca and the underlay address: 192.168.2.25 and .26.
HOST_MAC, FAR_MAC = "02:ca:c0:a8:02:19", "02:ca:c0:a8:02:1a"
VXLANS = Vxlan(name="vxlans", local=IPv4Address(HOST_ADDRESS), mtu=1450, mark=Mark(HOST, "vxlans"))
GATEWAY = IPv4Interface("10.9.1.1/24")
STATE = HostState(
    links=(Bridge(name="lxcbr0", mtu=1450, mark=Mark("demo", "lan")), VXLANS),
    addresses=(Address(link="lxcbr0", address=GATEWAY),),
    routes=(
        Route(dst=IPv4Network("10.9.2.0/24"), dev="vxlans", src=GATEWAY.ip, encap=IPv4Address(WIRE_ADDRESS)),
        # Another far end, whose block nobody else may use.
        Route(dst=IPv4Network("10.9.3.0/24"), dev="vxlans", src=GATEWAY.ip, encap=IPv4Address("192.168.2.27")),
    ),
)


@dataclass
class Joined:
    """A host with a vxlan, whose far end the test's own hand plays."""

    site: Site
    door: NetlinkDoor
    host_mac: str
    box: Tap
    wire: Tap

    def outer(self, *, vni: int = VNI, port: int = PORT, bits: int = 8, **fields: object) -> Packet:
        header: dict[str, Any] = {"src": WIRE_ADDRESS, "dst": HOST_ADDRESS, "flags": "DF"} | fields
        udp = UDP(sport=40000, dport=port, chksum=0)
        return Ether(src=WIRE_MAC, dst=self.host_mac) / IP(**header) / udp / VXLAN(vni=vni, flags=bits)

    def arrives(self, frame: Packet | bytes) -> list[Frame]:
        """What the box gets of *frame* before a good packet that follows it."""
        self.box.drain()
        self.wire.send(bytes(frame))
        self.wire.send(bytes(self.outer() / inner(END)))
        found: list[Frame] = []

        def look() -> bool:
            found.extend(self.box.drain())
            return any(END in each.data for each in found)

        poll_until(look, deadline=10, describe=lambda: found)
        return [each for each in found if END not in each.data and each.ethertype == 0x0800]

    def leaves(self, packet: Packet) -> list[Frame]:
        """What comes on the wire of a *packet* of the box's."""
        self.wire.drain()
        gateway = oracle.links(self.site.host)["lxcbr0"]["address"]
        good = IP(src="10.9.1.2", dst="10.9.2.2") / UDP() / Raw(END)
        for each in (packet, good):
            self.box.send(bytes(Ether(src=BOX_MACS[1], dst=gateway) / each))
        found: list[Frame] = []

        def look() -> bool:
            found.extend(self.wire.drain())
            return any(END in each.data for each in found)

        poll_until(look, deadline=10, describe=lambda: found)
        return [each for each in found if END not in each.data and each.ethertype == 0x0800]


def frame(**fields: object) -> Packet:
    header: dict[str, Any] = {"src": FAR_MAC, "dst": HOST_MAC} | fields
    return Ether(**header)


def inner(text: bytes = b"x", **fields: object) -> Packet:
    header: dict[str, Any] = {"src": "10.9.2.2", "dst": "10.9.1.2", "ttl": 9} | fields
    return frame() / IP(**header) / UDP(sport=1, dport=9) / Raw(COOKIE + text)


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    site = Site()
    try:
        with NetlinkDoor(netns=site.host) as door:
            make(door, STATE)
            box = add_box(site, 1)
            mac = oracle.links(site.host)["eth1"]["address"]
            # The wire has no stack that answers: only what is sent by hand comes from there.
            run("ip link set eth1 arp off && echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all", netns=site.wire)
            run(f"ip -n {site.host} neigh replace {WIRE_ADDRESS} lladdr {WIRE_MAC} dev eth1 nud permanent")
            run(f"ip -n {site.host} neigh replace 10.9.1.2 lladdr {BOX_MACS[1]} dev lxcbr0 nud permanent")
            with Tap(box, "eth0") as box_tap, Tap(site.wire, "eth1") as wire_tap:
                made = Joined(site, door, mac, box_tap, wire_tap)
                poll_until(lambda: oracle.links(site.host)["lxcbr0"]["operstate"] == "UP", deadline=10)
                yield made
    finally:
        site.close()


def test_what_leaves_is_a_vxlan_packet_to_the_far_end(joined: Joined) -> None:
    packet = IP(src="10.9.1.2", dst="10.9.2.2", ttl=33, tos=0xB8, id=77) / UDP(sport=5, dport=6) / Raw(COOKIE)
    (seen,) = joined.leaves(packet)
    outer = IP(seen.payload)
    assert (outer.src, outer.dst, outer.proto, outer.ttl, outer.flags) == (HOST_ADDRESS, WIRE_ADDRESS, 17, 64, "DF")
    header = VXLAN(bytes(outer[UDP].payload))
    assert (outer[UDP].dport, header.flags, header.vni) == (PORT, 8, VNI)
    carried = Ether(bytes(header.payload))
    assert (carried.src, carried.dst) == (HOST_MAC, FAR_MAC)
    expected = packet.copy()
    expected.ttl -= 1
    assert bytes(carried.payload) == bytes(expected)


def test_what_is_too_long_does_not_leave(joined: Joined) -> None:
    packet = IP(src="10.9.1.2", dst="10.9.2.2", flags="DF") / UDP() / Raw(b"x" * 1422)
    (seen,) = joined.leaves(packet)
    assert IP(seen.payload).len == 1500
    assert joined.leaves(packet / Raw(b"x")) == []


GOOD = {
    "first of the block": inner(src="10.9.2.0"),
    "last of the block": inner(src="10.9.2.255"),
    "inner fragment": inner(flags="MF", id=3),
    "inner options": inner(options=[IPOption_NOP()] * 4),
    "tcp": frame() / IP(src="10.9.2.2", dst="10.9.1.2") / TCP(flags="A") / Raw(COOKIE),
    "icmp": frame() / IP(src="10.9.2.2", dst="10.9.1.2") / ICMP(type=8) / Raw(COOKIE),
    "longest": inner(b"x" * (1450 - 28 - len(COOKIE))),
    "shortest": frame() / IP(src="10.9.2.2", dst="10.9.1.2", proto=253),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_packets_arrive_as_routed(joined: Joined, name: str) -> None:
    (seen,) = joined.arrives(joined.outer() / GOOD[name])
    expected = GOOD[name].payload.copy()
    expected.ttl -= 1
    assert seen.payload[: len(expected)] == bytes(expected)
    assert (seen.destination, seen.source) == (BOX_MACS[1], oracle.links(joined.site.host)["lxcbr0"]["address"])


@dataclass(frozen=True)
class Attack:
    """A frame that must not arrive, and the reason that it is counted under ("": none of ours)."""

    make: Callable[[Joined], Packet | bytes]
    reason: str


def nested(j: Joined) -> Packet:
    again = IP(src="10.9.2.2", dst=HOST_ADDRESS) / UDP(dport=PORT, chksum=0) / VXLAN(vni=VNI, flags=8)
    return j.outer() / frame() / again / inner()


def tagged(j: Joined) -> Packet:
    return j.outer() / frame() / Dot1Q(vlan=7) / inner().payload


def cut(packet: Packet, length: int) -> bytes:
    """*packet* with only so many bytes after its VXLAN header, and lengths that say so."""
    upper = packet[VXLAN]
    head = bytes(upper)[:8]
    base = packet.copy()
    base[UDP].remove_payload()
    return bytes(base / Raw(head + bytes(upper.payload)[:length]))


ATTACKS = {
    "stranger": Attack(lambda j: j.outer(src="192.168.2.99") / inner(), why.REMOTE),
    "source of nobody": Attack(lambda j: j.outer() / inner(src="8.8.8.8"), why.SOURCE),
    "source of another far end": Attack(lambda j: j.outer() / inner(src="10.9.3.2"), why.SOURCE),
    "another far end, this one's source": Attack(lambda j: j.outer(src="192.168.2.27") / inner(), why.SOURCE),
    "source of the underlay": Attack(lambda j: j.outer() / inner(src=WIRE_ADDRESS), why.SOURCE),
    "source of this end": Attack(lambda j: j.outer() / inner(src=HOST_ADDRESS), why.SOURCE),
    "source loopback": Attack(lambda j: j.outer() / inner(src="127.0.0.1"), why.SOURCE),
    "source nothing": Attack(lambda j: j.outer() / inner(src="0.0.0.0"), why.SOURCE),
    "source of a neighbour": Attack(lambda j: j.outer() / inner(src="10.9.1.3"), why.OWN_SOURCE),
    "source of the gateway": Attack(lambda j: j.outer() / inner(src="10.9.1.1"), why.OWN_SOURCE),
    "first fragment": Attack(lambda j: j.outer(flags="MF") / inner(), why.FRAGMENT),
    "last fragment": Attack(lambda j: j.outer(flags=0, frag=3) / inner(), ""),
    "options": Attack(lambda j: j.outer(options=[IPOption_NOP()] * 4) / inner(), why.OPTIONS),
    "vxlan in vxlan": Attack(nested, why.REMOTE),
    "bare": Attack(lambda j: Ether(src=WIRE_MAC, dst=j.host_mac) / inner().payload, why.BARE),
    "bare of the other": Attack(lambda j: Ether(src=WIRE_MAC, dst=j.host_mac) / inner(src="10.9.3.2")[IP], why.BARE),
    "another vni": Attack(lambda j: j.outer(vni=VNI + 1) / inner(), why.MALFORMED),
    "no vni": Attack(lambda j: j.outer(bits=0) / inner(), ""),
    "group policy": Attack(lambda j: j.outer(bits=0x88) / inner(), why.MALFORMED),
    "gpe": Attack(lambda j: j.outer(bits=0x0C) / inner(), why.MALFORMED),
    "inner arp": Attack(lambda j: j.outer() / frame(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.9.1.1"), why.MALFORMED),
    "inner ipv6": Attack(lambda j: j.outer() / frame() / IPv6(dst="fd00::1") / UDP() / Raw(COOKIE), why.MALFORMED),
    "inner tag": Attack(tagged, why.MALFORMED),
    "inner version 6": Attack(lambda j: j.outer() / inner(version=6), why.MALFORMED),
    "inner header too short": Attack(lambda j: j.outer() / inner(ihl=4), why.MALFORMED),
    "inner cut": Attack(lambda j: cut(j.outer() / inner(), 26), why.MALFORMED),
    "no inner": Attack(lambda j: j.outer(), why.MALFORMED),
    "congestion untold": Attack(lambda j: j.outer(tos=3) / inner(), why.MALFORMED),
    "inner checksum": Attack(lambda j: j.outer() / inner(chksum=0x1234), ""),  # the stack counts it
    "to another's inner mac": Attack(lambda j: j.outer() / frame(dst="02:00:00:00:00:99") / inner()[IP], ""),
    "to another's mac": Attack(lambda j: Ether(src=WIRE_MAC, dst="02:00:00:00:00:99") / (j.outer() / inner())[IP], ""),
    "to another port": Attack(lambda j: j.outer(port=8472) / inner(), ""),
    "hops used up": Attack(lambda j: j.outer() / inner(ttl=1), ""),
    "by ipv6": Attack(
        lambda j: Ether(src=WIRE_MAC, dst=j.host_mac) / IPv6(src="fd00::2", dst="fd00::1") / (j.outer() / inner())[UDP],
        "",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_must_not_arrive_does_not_and_is_counted(joined: Joined, name: str) -> None:
    attack = ATTACKS[name]
    before = joined.door.tunnel_drops()
    assert joined.arrives(attack.make(joined)) == []
    after = joined.door.tunnel_drops()
    counted = {reason: after[reason] - before[reason] for reason in after if after[reason] != before[reason]}
    assert counted == ({attack.reason: 1} if attack.reason else {})


def test_nobody_listens_for_it_on_ipv6(joined: Joined) -> None:
    assert f":{PORT}" in run("ss -4 -lun", netns=joined.site.host)
    assert f":{PORT}" not in run("ss -6 -lun", netns=joined.site.host)


def test_every_address_of_the_host_is_guarded(joined: Joined) -> None:
    run("ip address add 192.168.2.77/24 dev eth1", netns=joined.site.host)
    before = joined.door.tunnel_drops()
    assert joined.arrives(joined.outer(dst="192.168.2.77") / inner()) == []
    assert joined.door.tunnel_drops()[why.REMOTE] == before[why.REMOTE] + 1


def test_vxlan_of_others_that_passes_is_let_through(joined: Joined) -> None:
    """The host as a router: a box's own vxlan to a place that is no address of the host's."""
    packet = IP(src="10.9.1.2", dst="192.168.2.26") / UDP(sport=7, dport=PORT) / VXLAN(vni=9, flags=8) / Raw(COOKIE)
    run("echo 1 > /proc/sys/net/ipv4/conf/eth1/forwarding", netns=joined.site.host)
    (seen,) = joined.leaves(packet)
    assert IP(seen.payload).src == "10.9.1.2"


def test_a_port_that_another_vxlan_has_is_a_conflict_and_nothing_is_left(site: Site) -> None:
    # Silent: a link's own IPv6 routes come when they come.
    run(
        "ip link add theirs type vxlan external dstport 4789"
        " && echo 1 > /proc/sys/net/ipv6/conf/theirs/disable_ipv6 && ip link set theirs up",
        netns=site.host,
    )
    before = oracle.snapshot(site.host)
    with NetlinkDoor(netns=site.host) as door:
        with pytest.raises(CaasError) as caught:
            door.create(VXLANS)
        assert caught.value.code is Code.CONFLICT
        assert oracle.snapshot(site.host) == before


def test_it_is_there_as_wanted_and_goes_without_a_trace(site: Site) -> None:
    before = oracle.snapshot(site.host)
    with NetlinkDoor(netns=site.host) as door:
        make(door, STATE)
        link = oracle.links(site.host)["vxlans"]
        data = link["linkinfo"]["info_data"]
        assert (link["mtu"], link["address"], link["ifalias"]) == (1450, HOST_MAC, "caas:host:vxlans")
        assert (data["id"], data["port"], data["local"], data["ttl"]) == (VNI, PORT, HOST_ADDRESS, 64)
        assert (data["learning"], data["df"]) == (False, "set")
        assert run("cat /proc/sys/net/ipv4/conf/vxlans/rp_filter", netns=site.host).strip() == "2"
        assert door.observe().state == STATE
        with NetlinkDoor(netns=site.host) as restarted:
            assert restarted.observe().state == STATE
            restarted.tunnel_drops()
            assert restarted.writes == 0
        remove(door, STATE)
        remove(door, STATE)
        assert door.observe().state == HostState()
    assert oracle.snapshot(site.host) == before
