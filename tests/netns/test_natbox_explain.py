"""What NATBox says would happen to a packet is what happens to it: packets of all kinds, explained and then sent."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet as Layers

from natbox.explain import ANSWERED, DROPPED, PASSES, Explanation, Packet
from natbox.gatekeeper import Gatekeeper
from natbox.saved import SavedTables
from proto.model import Gateway, OwnAddress, Publication
from tests.support.crossing import MANAGEMENT, OUTSIDE, UPLINK
from tests.support.gateway import ip_of, is_ipv4, make_gateway, make_table
from tests.support.natbox_box import OTHER, A, B, Box, make_box
from tests.support.wire import Frame

EXTERNAL, OWN = "203.0.113.7", "203.0.113.8"
SENDER_MAC = "02:00:00:00:00:0f"
_ports = itertools.cycle(range(10_000, 60_000))


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    yield from make_box()


@pytest.fixture(scope="module")
def keeper(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Gatekeeper:
    """A publishes at the uplink's address, B at one of its own; OTHER has an own address."""
    folder: Path = tmp_path_factory.mktemp("natbox")
    made = Gatekeeper(box.door, SavedTables(folder / "desired"))
    for gateway in (
        replace(make_gateway(A), publications=(_port("tcp", 80), _port("udp", 53))),
        replace(make_gateway(B), publications=(_port("tcp", 81),), external=ipaddress.IPv4Address(EXTERNAL)),
        replace(make_gateway(OTHER), own_addresses=(_own(OWN, OTHER.address),)),
    ):
        made.apply(make_table(gateway), on_plan=lambda _: None, on_done=lambda _: None)
    return made


def _port(protocol: str, port: int) -> Publication:
    return Publication(protocol=protocol, port=port, to=ipaddress.IPv4Address(A.address), to_port=port + 8000)


def _own(external: str, address: str) -> OwnAddress:
    return OwnAddress(external=ipaddress.IPv4Address(external), address=ipaddress.IPv4Address(address))


DESTINATIONS = (
    OUTSIDE, UPLINK, EXTERNAL, OWN, MANAGEMENT, "192.168.2.1", "192.168.10.1", "192.168.10.51", "192.168.30.1",
    OTHER.address, A.address, "198.51.100.7", "224.0.0.5", "255.255.255.255", "127.0.0.1", "240.200.10.50", "240.0.0.1",
)  # fmt: skip
SOURCES = (A.address, OTHER.address, "192.168.10.51", OUTSIDE, "198.51.100.7", "240.200.10.50")
PORTS = (80, 81, 53, 7444, 22)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Half of them such as a container would send; the rest with anything anywhere."""
    station = draw(st.sampled_from((A, B, OTHER)))
    is_usual = draw(st.booleans())
    from_uplink = draw(st.booleans())
    usual_source = OUTSIDE if from_uplink else station.address
    protocol = draw(st.sampled_from(("tcp", "udp", "icmp")))
    mac = station.mac if is_usual else draw(st.sampled_from((A.mac, B.mac, OTHER.mac, SENDER_MAC)))
    has_ports = protocol != "icmp"
    return Packet(
        from_uplink=from_uplink,
        vid=0 if from_uplink else station.vid if is_usual else draw(st.sampled_from((0, 1, 100, 101, 200, 300, 4095))),
        source=ipaddress.IPv4Address(usual_source if is_usual else draw(st.sampled_from(SOURCES))),
        destination=ipaddress.IPv4Address(draw(st.sampled_from(DESTINATIONS))),
        protocol=protocol,
        source_port=next(_ports) if has_ports else 0,
        destination_port=draw(st.sampled_from(PORTS)) if has_ports else 0,
        mac="" if from_uplink else mac,
    )


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packet=packets())
def test_a_packet_fares_as_explained(box: Box, keeper: Gatekeeper, packet: Packet) -> None:
    explained = keeper.explain(packet)
    before = box.drain()
    send(box, packet)
    if explained.verdict == DROPPED:
        vid = 0 if packet.from_uplink or explained.owner is None else packet.vid
        assert wait_for_drop(box, before, explained.reason) == (
            {(vid, explained.reason): 1} if explained.reason else {}
        )
        assert not carried(box, 0), explained
        return
    frames = carried(box, 1.0)
    assert len(frames) == 1, explained
    tap, frame = frames[0]
    check_passed(box, packet, explained, tap, frame)
    assert box.drops_since(before) == {}


def check_passed(box: Box, packet: Packet, explained: Explanation, tap: str, frame: Frame) -> None:
    inner = ip_of(frame)
    if explained.verdict == ANSWERED:
        assert tap == ("world" if packet.from_uplink else "trunk")
        assert (inner.src, inner.dst) == (str(packet.destination), str(packet.source))
        return
    assert explained.verdict == PASSES
    last = explained.steps[-1]
    if tap == "world":
        assert not packet.from_uplink
        assert frame.tags == ()
        assert f"with the source {inner.src}" in last
    else:
        ((tpid, vid),) = frame.tags
        assert (tpid, f" {vid}," in last, f"it goes to {inner.dst}" in last) == (0x8100, True, True)
        if packet.from_uplink:
            assert explained.owner is not None
            assert (inner.src, vid) == (str(packet.source), explained.owner.vid)


def send(box: Box, packet: Packet) -> None:
    layers: Layers
    if packet.protocol == "icmp":
        layers = ICMP(id=next(_ports), seq=1)
    elif packet.protocol == "tcp":
        layers = TCP(sport=packet.source_port, dport=packet.destination_port, flags="S")
    else:
        layers = UDP(sport=packet.source_port, dport=packet.destination_port)
    whole = IP(src=str(packet.source), dst=str(packet.destination)) / layers
    if packet.from_uplink:
        box.world.send(bytes(Ether(src=SENDER_MAC, dst=box.uplink_mac) / whole))
    else:
        tag = Dot1Q(vlan=packet.vid) if packet.vid else b""
        head = Ether(src=packet.mac, dst=box.mac) / tag if tag else Ether(src=packet.mac, dst=box.mac)
        box.trunk.send(bytes(head / whole))


def wait_for_drop(box: Box, before: dict[tuple[int, str], int], reason: str) -> dict[tuple[int, str], int]:
    """What was dropped, as soon as something was; a drop that nobody counts has a moment to be none."""
    deadline = time.monotonic() + (1.0 if reason else 0.05)
    while not (found := box.drops_since(before)) and time.monotonic() < deadline:
        pass
    return found


def carried(box: Box, seconds: float) -> list[tuple[str, Frame]]:
    """IPv4 frames that came out anywhere, by the name of the tap; after the first, those that came with it."""
    deadline = time.monotonic() + seconds
    found: list[tuple[str, Frame]] = []
    while True:
        for name, tap in (("trunk", box.trunk), ("world", box.world), ("management", box.management)):
            found += [(name, frame) for frame in tap.drain() if is_ipv4(frame)]
        if found or time.monotonic() >= deadline:
            return found


def test_what_an_operator_reads(keeper: Gatekeeper) -> None:
    packet = Packet(
        from_uplink=True,
        vid=0,
        source=ipaddress.IPv4Address(OUTSIDE),
        destination=ipaddress.IPv4Address(UPLINK),
        protocol="tcp",
        source_port=4000,
        destination_port=80,
    )
    explained = keeper.explain(packet)
    owner: Gateway | None = explained.owner
    assert (explained.verdict, owner.name if owner else "") == (PASSES, "c100/cluster")
    assert explained.steps[0] == f"{UPLINK} is published by c100/cluster for this"
    assert explained.steps[-1] == f"it goes to {A.address}:8080 with exactly one tag, 100, priority 0"
