"""What clusters publish at NATBox: ports, own addresses, the source of what leaves; and who gets at them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from proto.errors import CaasError, Code
from proto.model import Gateway, OwnAddress, Publication
from tests.support.crossing import MANAGEMENT, OUTSIDE, UPLINK, run
from tests.support.gateway import Station, check_sums, ip_of, is_ipv4, make_gateway
from tests.support.natbox_box import A, B, Box, make_box
from tests.support.wire import Frame

EXTERNAL, OTHER_EXTERNAL = "203.0.113.7", "203.0.113.8"
SECOND = Station(vid=100, mac="02:00:00:00:00:a2", address="192.168.10.51")


@pytest.fixture
def box() -> Iterator[Box]:
    yield from make_box()


def publish(
    box: Box,
    *doors: tuple[str, int, int],
    station: Station = A,
    external: str = "",
    own: str = "",
) -> Gateway:
    """(protocol, port, port inside) of *station*, which has its VLAN for itself; what it has *own*, and leaves by."""
    address = ipaddress.IPv4Address(station.address)
    publications = [Publication(protocol=name, port=port, to=address, to_port=to) for name, port, to in doors]
    before = make_gateway(station)
    after = replace(
        before,
        external=ipaddress.IPv4Address(external) if external else None,
        publications=tuple(sorted(publications, key=lambda one: (one.protocol, one.port))),
        own_addresses=(OwnAddress(external=ipaddress.IPv4Address(own), address=address),) if own else (),
    )
    return box.change(before, after)


def arrives(box: Box, station: Station) -> Packet:
    """The one packet that comes out of the trunk, with exactly *station*'s tag, for its MAC and address."""
    heard = box.packets(box.trunk)
    assert [(each.tags, each.source, each.destination) for each in heard] == [
        (((0x8100, station.vid),), box.mac, station.mac)
    ]
    packet = ip_of(heard[0])
    assert packet.dst == station.address
    check_sums(IP(bytes(packet)[: packet.len]))
    return packet


def leaves(box: Box, words: bytes = b"") -> Packet:
    (frame,) = box.world.collect(lambda each: is_ipv4(each) and words in each.data)
    assert frame.tags == ()
    packet = ip_of(frame)
    check_sums(IP(bytes(packet)[: packet.len]))
    return packet


def ask_arp(box: Box, address: str) -> list[Frame]:
    ask = ARP(op=1, hwsrc="02:00:00:00:00:0f", psrc=OUTSIDE, pdst=address)
    box.world.send(bytes(Ether(src="02:00:00:00:00:0f", dst="ff:ff:ff:ff:ff:ff") / ask))
    box.settle()
    return [frame for frame in box.world.drain() if frame.ethertype == 0x0806]


@pytest.mark.parametrize("external", ["", EXTERNAL])
@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("udp", UDP(sport=9000, dport=53) / b"question", UDP(sport=5353, dport=9000) / b"answer"),
        ("tcp", TCP(sport=9000, dport=53, flags="S", seq=5), TCP(sport=5353, dport=9000, flags="SA", seq=1, ack=6)),
    ],
)
def test_a_published_port_leads_to_its_container_and_back(
    box: Box, name: str, question: Packet, answer: Packet, external: str
) -> None:
    publish(box, (name, 53, 5353), external=external)
    place = external or UPLINK
    box.come(question.copy(), to=place)
    packet = arrives(box, A)
    assert (packet.src, packet.sport, packet.dport) == (OUTSIDE, 9000, 5353), "the client is who it is"
    box.send(A, answer.copy())
    back = leaves(box)
    assert (back.src, back.dst, back.sport, back.dport) == (place, OUTSIDE, 53, 9000)


def test_only_what_is_published_comes_in_and_only_there(box: Box) -> None:
    publish(box, ("tcp", 80, 80), external=EXTERNAL)
    publish(box, ("udp", 53, 53), station=B)
    before = box.drain()
    for to, layers in (
        (EXTERNAL, TCP(sport=9000, dport=81, flags="S")),
        (EXTERNAL, UDP(sport=9000, dport=80)),
        (EXTERNAL, UDP(sport=9000, dport=53)),
        (UPLINK, TCP(sport=9000, dport=80, flags="S")),
        (MANAGEMENT, UDP(sport=9000, dport=53)),
        (OTHER_EXTERNAL, TCP(sport=9000, dport=80, flags="S")),
        ("192.168.10.50", TCP(sport=9000, dport=80, flags="S")),
        ("240.100.10.50", TCP(sport=9000, dport=80, flags="S")),
    ):
        box.come(layers, to=to)
    # An inner address is nobody's outside: an answer to it would go to another VLAN.
    box.come(TCP(sport=9000, dport=80, flags="S"), to=EXTERNAL, source="240.200.10.50")
    box.hears_nothing(box.trunk, box.management)
    assert box.drops_since(before) == {(0, "nobody asked for it"): 9}
    box.come(TCP(sport=9000, dport=80, flags="S"), to=EXTERNAL)
    assert arrives(box, A).dport == 80


def test_a_cluster_with_an_address_of_its_own_leaves_by_it_and_the_others_do_not(box: Box) -> None:
    publish(box, external=EXTERNAL)
    box.send(A, UDP(sport=4000, dport=53) / b"mine")
    box.send(B, UDP(sport=4000, dport=53) / b"other")
    mine, other = leaves(box, b"mine"), leaves(box, b"other")
    assert (mine.src, other.src) == (EXTERNAL, UPLINK)
    assert mine.sport != 4000, "ports are chosen at random"
    box.come(UDP(sport=53, dport=mine.sport) / b"answer", to=EXTERNAL)
    assert arrives(box, A).dport == 4000


def test_arp_is_answered_for_external_addresses_and_no_other(box: Box) -> None:
    assert ask_arp(box, EXTERNAL) == []
    gateway = publish(box, ("tcp", 80, 80), external=EXTERNAL, own=OTHER_EXTERNAL)
    for address in (UPLINK, EXTERNAL, OTHER_EXTERNAL):
        (frame,) = ask_arp(box, address)
        reply = ARP(frame.payload)
        assert (reply.op, reply.psrc, reply.hwsrc) == (2, address, box.uplink_mac)
    addresses = run("ip", "-o", "-4", "address", "show", "dev", "eth2", netns=box.around.natbox).stdout
    assert addresses.count("inet ") == 1, "the uplink keeps the addresses that it had"
    assert ask_arp(box, "203.0.113.9") == []
    box.door.delete(gateway)
    assert ask_arp(box, EXTERNAL) == ask_arp(box, OTHER_EXTERNAL) == []


def test_an_own_address_is_one_containers_both_ways_in_every_protocol(box: Box) -> None:
    publish(box, own=EXTERNAL)
    box.send(A, UDP(sport=4000, dport=53) / b"out")
    out = leaves(box, b"out")
    assert (out.src, out.sport) == (EXTERNAL, 4000), "nobody else is behind it: the port stays"
    for question in (
        UDP(sport=9000, dport=7777) / b"in",
        TCP(sport=9000, dport=7777, flags="S"),
        ICMP(id=5, seq=1) / b"in",
    ):
        box.trunk.drain()
        box.come(question, to=EXTERNAL)
        packet = arrives(box, A)
        assert packet.src == OUTSIDE
    box.world.drain()
    box.send(A, ICMP(type=0, id=5, seq=1) / b"in")
    back = leaves(box, b"in")
    assert (back.src, back[ICMP].type, back[ICMP].id) == (EXTERNAL, 0, 5)


def test_an_own_address_is_not_its_neighbours(box: Box) -> None:
    before = make_gateway(A, SECOND)
    box.change(make_gateway(A), before)
    own = (OwnAddress(external=ipaddress.IPv4Address(EXTERNAL), address=ipaddress.IPv4Address(A.address)),)
    other = ipaddress.IPv4Address(OTHER_EXTERNAL)
    box.change(before, replace(before, own_addresses=own, external=other))
    box.send(A, UDP(sport=4000, dport=53) / b"own")
    box.send(SECOND, UDP(sport=4000, dport=53) / b"shared")
    assert (leaves(box, b"own").src, leaves(box, b"shared").src) == (EXTERNAL, OTHER_EXTERNAL)


@pytest.mark.parametrize("external", ["", EXTERNAL])
def test_from_vlan_to_vlan_only_what_is_published_passes_and_as_from_outside(box: Box, external: str) -> None:
    publish(box, ("udp", 53, 5353), external=external)
    place = external or UPLINK
    for asker in (B, A):  # a cluster may also use what it publishes itself
        before = box.drain()
        box.send(asker, UDP(sport=4000, dport=53) / b"question", to=place)
        packet = arrives(box, A)
        assert packet.src in (place, UPLINK), "an inner address never leaves NATBox"
        assert (packet.dport, packet[UDP].sport != 4000) == (5353, True)
        box.send(A, UDP(sport=5353, dport=packet.sport) / b"answer", to=packet.src)
        back = arrives(box, asker)
        assert (back.src, back.sport, back.dport) == (place, 53, 4000)
        assert box.drops_since(before) == {}
    before = box.drain()
    box.send(B, UDP(sport=4000, dport=54) / b"not published", to=place)
    box.send(B, TCP(sport=4000, dport=53, flags="S"), to=place)
    box.hears_nothing(box.trunk, box.world)
    assert box.drops_since(before) == {(200, "to NATBox's own address"): 2}


def test_nobody_outside_speaks_in_a_connection_between_vlans(box: Box) -> None:
    publish(box, ("udp", 53, 5353))
    box.send(B, UDP(sport=4000, dport=53) / b"question", to=UPLINK)
    packet = arrives(box, A)
    box.send(A, UDP(sport=5353, dport=packet.sport) / b"answer", to=packet.src)
    arrives(box, B)
    before = box.drain()
    box.come(UDP(sport=4000, dport=53) / b"forged", to=UPLINK, source="240.200.10.50")
    box.hears_nothing(box.trunk)
    assert box.drops_since(before) == {(0, "nobody asked for it"): 1}


def test_a_vlan_that_has_an_address_of_its_own_shows_it_to_another(box: Box) -> None:
    publish(box, ("udp", 53, 5353), external=EXTERNAL)
    publish(box, station=B, external=OTHER_EXTERNAL)
    box.send(B, UDP(sport=4000, dport=53) / b"question", to=EXTERNAL)
    assert arrives(box, A).src == OTHER_EXTERNAL


def test_errors_of_natbox_about_what_came_in_speak_of_the_external_address(box: Box) -> None:
    publish(box, ("udp", 53, 5353))
    box.come(UDP(sport=9000, dport=53) / b"question", to=UPLINK, ttl=1)
    error = leaves(box)
    assert (error.src, error.dst, error[ICMP].type) == (UPLINK, OUTSIDE, 11)
    about = error[ICMP].payload
    assert (about.src, about.dst, about.dport) == (OUTSIDE, UPLINK, 53), "no inner address is told"


def test_fragmentation_needed_reaches_who_asks_from_outside(box: Box) -> None:
    publish(box, ("udp", 53, 5353), own=EXTERNAL)
    run("ip", "link", "set", "eth1", "mtu", "1300", netns=box.around.natbox)
    for to in (UPLINK, EXTERNAL):
        packet = IP(src=OUTSIDE, dst=to, flags="DF", id=3) / UDP(sport=9000, dport=53) / (b"x" * 1400)
        box.world.send(bytes(Ether(src="02:00:00:00:00:0f", dst=box.uplink_mac) / packet))
        error = leaves(box)
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1300)
        assert (error.dst, error[ICMP].payload.dst) == (OUTSIDE, to)


def test_an_error_from_inside_reaches_who_asked(box: Box) -> None:
    publish(box, ("udp", 53, 5353))
    box.come(UDP(sport=9000, dport=53) / b"question", to=UPLINK)
    packet = arrives(box, A)
    box.send(A, ICMP(type=3, code=3) / Raw(bytes(packet)[:28]))
    error = leaves(box)
    assert (error.src, error.dst, error[ICMP].code) == (UPLINK, OUTSIDE, 3)
    about = error[ICMP].payload
    assert (about.src, about.dst, about.sport, about.dport) == (OUTSIDE, UPLINK, 9000, 53)


def test_a_removed_vlan_takes_its_published_connections_with_it_and_no_others(box: Box) -> None:
    gone = publish(box, ("udp", 53, 5353))
    publish(box, ("udp", 54, 5354), station=B)
    box.come(UDP(sport=9000, dport=53) / b"first", to=UPLINK)
    arrives(box, A)
    box.come(UDP(sport=9000, dport=54) / b"second", to=UPLINK)
    arrives(box, B)
    box.send(B, UDP(sport=4000, dport=53) / b"across", to=UPLINK)
    arrives(box, A)
    assert counts(box) == [2, 2]
    box.door.delete(gone)
    assert counts(box) == [0, 1]
    box.come(UDP(sport=9000, dport=53) / b"late", to=UPLINK)
    box.come(UDP(sport=9000, dport=54) / b"still", to=UPLINK)
    assert bytes(arrives(box, B)[UDP].payload).rstrip(b"\0") == b"still"


def counts(box: Box) -> list[int]:
    """Connections of A's VLAN and of B's."""
    return [each.connections for each in box.door.counters([A.vid, B.vid])]


def test_what_is_published_no_more_ends_and_the_rest_goes_on(box: Box) -> None:
    both = publish(box, ("udp", 53, 5353), ("udp", 54, 5354), own=EXTERNAL)
    for port in (53, 54):
        box.come(UDP(sport=9000, dport=port), to=UPLINK)
        arrives(box, A)
    box.come(UDP(sport=9000, dport=99), to=EXTERNAL)
    arrives(box, A)
    box.send(A, UDP(sport=4000, dport=53), to="198.51.100.7")
    assert counts(box)[0] == 4
    one = box.change(both, replace(both, publications=both.publications[:1]))
    assert counts(box)[0] == 3
    box.change(one, replace(one, own_addresses=()))
    assert counts(box)[0] == 1, "what came and left by the address that is its own no more"
    box.trunk.drain()
    box.come(UDP(sport=9000, dport=53), to=UPLINK)
    arrives(box, A)


def test_the_kernel_refuses_what_another_vlan_publishes(box: Box) -> None:
    publish(box, ("udp", 53, 5353))
    with pytest.raises(CaasError, match=r"VID 200: .* belongs to VID 100") as caught:
        publish(box, ("udp", 53, 53), station=B)
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(CaasError, match="machine has it itself"):
        publish(box, station=B, external=MANAGEMENT)


@pytest.mark.parametrize(
    "damage",
    [
        ("nft", "delete", "element", "ip", "caas_natbox", "published", "{ 203.0.113.7 . udp . 53 }"),
        ("nft", "flush", "map", "ip", "caas_natbox", "sources"),
        ("nft", "flush", "map", "ip", "caas_natbox", "owners"),
        ("ip", "route", "del", "local", EXTERNAL, "table", "local"),
    ],
    ids=lambda words: words[-2],
)
def test_what_somebody_takes_away_is_seen(box: Box, damage: tuple[str, ...]) -> None:
    whole = publish(box, ("udp", 53, 5353), external=EXTERNAL)
    run(*damage, netns=box.around.natbox)
    seen = box.door.observe([whole]).vlans[100]
    assert seen.gateway != whole or not seen.intact
    box.change(seen.gateway, whole)


def test_another_address_of_the_uplink_is_followed(box: Box) -> None:
    publish(box, ("udp", 53, 5353))
    run("ip", "address", "add", "203.0.113.20/24", "dev", "eth2", netns=box.around.natbox)
    assert box.door.observe_path().missing == ("nft rules",)
    box.door.lay_path()
    assert box.door.observe_path().missing == ()
    box.come(UDP(sport=9000, dport=53), to="203.0.113.20")
    assert arrives(box, A).dport == 5353


def test_nft_shows_what_it_was_given(box: Box) -> None:
    """The judge shares no code with the accused: nft reads the elements that were written as bytes."""
    made = publish(box, ("tcp", 80, 8080), external=EXTERNAL, own=OTHER_EXTERNAL)
    limited = replace(made, limits=replace(made.limits, connections=500, connections_per_second=20))
    box.change(made, limited)
    shown = run("nft", "list", "table", "ip", "caas_natbox", netns=box.around.natbox).stdout
    for words in (
        "203.0.113.7 . tcp . 80 : 240.100.10.50 . 8080",
        "203.0.113.8 : 240.100.10.50",
        "240.100.10.50 : 203.0.113.8",
        "240.100.0.0 : 203.0.113.7",
        "240.100.0.0 : 0xcb000064",
        "240.100.0.0 ct count over 500",
        "240.100.0.0 limit rate over 20/second burst 20 packets",
        'comment "caas:c100:cluster"',
    ):
        assert words in shown, words


def test_the_last_vlan_leaves_no_external_address(box: Box) -> None:
    publish(box, external=EXTERNAL, own=OTHER_EXTERNAL)
    box.door.lift_path()
    routes = run("ip", "route", "show", "table", "local", netns=box.around.natbox).stdout
    assert EXTERNAL not in routes
    assert OTHER_EXTERNAL not in routes
