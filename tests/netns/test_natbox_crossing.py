"""No frame crosses from one VLAN to another: every ordered pair of 64, and random tenants with random frames."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP

from tests.support.crossing import OUTSIDE, UPLINK
from tests.support.gateway import Station, ip_of, is_ipv4, make_gateway
from tests.support.natbox_box import Box, make_box
from tests.support.wire import Frame

PAIRED = 64
FIRST_VID = 1000


@pytest.fixture
def box() -> Iterator[Box]:
    yield from make_box()


@pytest.fixture(scope="module")
def shared_box() -> Iterator[Box]:
    yield from make_box()


def tag(vid: int, protocol: int = 0x8100, priority: int = 0) -> bytes:
    """PCP and DEI are *priority*, the upper four bits."""
    return struct.pack("!HH", protocol, priority << 12 | vid)


def make_frame(
    station: Station, to_mac: str, tags: bytes, *, to: str = OUTSIDE, source: str = "", note: bytes
) -> bytes:
    """An Ethernet frame with *tags* as they are on the wire; *note* is what it can be told by."""
    packet = bytes(IP(src=source or station.address, dst=to) / UDP(sport=4000, dport=53) / note)
    return bytes.fromhex((to_mac + station.mac).replace(":", "")) + tags + b"\x08\x00" + packet


def test_no_frame_crosses_between_any_two_of_64_clusters_with_one_subnet(box: Box) -> None:
    stations = [Station(vid=FIRST_VID + index, mac=f"02:00:00:00:01:{index:02x}") for index in range(PAIRED)]
    for station in stations:
        box.door.create(make_gateway(station))
    vids = [station.vid for station in stations]
    patient, sent = list(patience(box, stations)), 0
    box.drain()
    for here in stations:
        for there in stations:
            if here is not there:
                for frame in attempts(box, here, there):
                    box.trunk.send(frame)
                    sent += 1
        for tap in (box.trunk, box.world, box.management):
            assert not [frame for frame in tap.drain() if b"attempt" in frame.data], f"crossed from VID {here.vid}"
    assert sent == PAIRED * (PAIRED - 1) * 5
    drops: dict[str, int] = {}
    for counters in box.door.counters(vids):
        for reason, number in counters.drops:
            drops[reason] = drops.get(reason, 0) + number
    pairs = PAIRED * (PAIRED - 1)
    assert drops == {
        "spoofed source": pairs, "to its own subnet": pairs, "not unicast": pairs, "second tag": pairs,
        "MAC not ours": pairs,
    }  # fmt: skip
    assert patient == list(patience(box, stations)), "each still has its own answer, and nobody else's"


def attempts(box: Box, here: Station, there: Station) -> Iterator[bytes]:
    """Ways in which *here* might get a frame into the VLAN of *there*."""
    note = b"attempt %d %d" % (here.vid, there.vid)
    thief = replace(there, mac=here.mac)
    yield make_frame(thief, box.mac, tag(there.vid), note=note)
    yield make_frame(here, box.mac, tag(here.vid), to="192.168.10.51", note=note)
    inner = f"{240 + (there.vid >> 8)}.{there.vid & 255}.10.50"
    yield make_frame(here, box.mac, tag(here.vid), to=inner, note=note)
    yield make_frame(here, box.mac, tag(here.vid) + tag(there.vid), note=note)
    yield make_frame(here, "ff:ff:ff:ff:ff:ff", tag(here.vid), to=there.address, note=note)


def patience(box: Box, stations: list[Station]) -> Iterator[tuple[int, str, bytes]]:
    """Each asks the same server from the same address and port at the same time; which VLAN heard which answer."""
    for station in stations:
        box.trunk.send(make_frame(station, box.mac, tag(station.vid), note=b"question %d" % station.vid))
    questions = box.world.collect(lambda frame: is_ipv4(frame) and b"question" in frame.data, count=len(stations))
    assert {ip_of(frame).src for frame in questions} == {UPLINK}
    box.trunk.drain()
    for frame in questions:
        asked = ip_of(frame)
        box.answer(frame, UDP(sport=53, dport=asked.sport) / bytes(asked[UDP].payload).replace(b"question", b"answer"))
    heard = box.trunk.collect(is_ipv4, count=len(stations))
    for frame in sorted(heard, key=lambda frame: frame.tags):
        ((protocol, vid),) = frame.tags
        note = bytes(ip_of(frame)[UDP].payload).rstrip(b"\0")
        assert (protocol, note) == (0x8100, b"answer %d" % vid)
        assert frame.destination == stations[vid - FIRST_VID].mac
        yield vid, frame.destination, note
    assert len(heard) == len(stations)


@dataclass(frozen=True)
class Attempt:
    """A frame, and whether it is to be forwarded."""

    station: Station
    data: bytes
    is_right: bool


@st.composite
def tenants(draw: st.DrawFn) -> list[Station]:
    """Up to four VLANs, whose subnets are the same, overlap, or differ."""
    vids = draw(st.lists(st.integers(1, 4094).filter(lambda vid: vid not in (100, 200, 300)), min_size=2, max_size=4,
                         unique=True))  # fmt: skip
    found = []
    for vid in vids:
        net, prefix = draw(st.sampled_from((("10.77.0", 24), ("10.77.0", 16), ("172.20.5", 24), ("192.168.30", 28))))
        host = draw(st.integers(2, 13))
        mac = f"02:00:00:01:{vid >> 8:02x}:{vid & 255:02x}"
        found.append(Station(vid=vid, mac=mac, address=f"{net}.{host}", gateway=f"{net}.1/{prefix}"))
    return found


TAGS = ("plain", "none", "vid 0", "vid 4095", "nobody's", "another's", "802.1ad", "two", "802.1ad under",
        "over 802.1ad", "three", "0x9100", "two of its own")  # fmt: skip
SPOILS = ("nothing", "source address", "source mac", "destination mac", "ipv6 ethertype", "own subnet", "multicast",
          "inner", "another's subnet")  # fmt: skip


@st.composite
def attempted(draw: st.DrawFn, stations: list[Station], mac: str, number: int) -> Attempt:
    """A frame of one of *stations* with random priority bits, and perhaps something wrong in its tags or addresses."""
    station = draw(st.sampled_from(stations))
    other = draw(st.sampled_from([each for each in stations if each is not station]))
    how, spoil = draw(st.sampled_from(TAGS)), draw(st.sampled_from(SPOILS))
    if draw(st.booleans()):
        how = "plain"
    if draw(st.booleans()):
        spoil = "nothing"
    priority = draw(st.integers(0, 15))
    unowned = next(vid for vid in range(1, 4095) if vid not in {100, 200, 300, *(each.vid for each in stations)})
    own = tag(station.vid, priority=priority)
    tags = {
        "plain": own,
        "none": b"",
        "vid 0": tag(0, priority=priority),
        "vid 4095": tag(4095, priority=priority),
        "nobody's": tag(unowned, priority=priority),
        "another's": tag(other.vid, priority=priority),
        "802.1ad": tag(station.vid, 0x88A8, priority),
        "two": own + tag(other.vid),
        "802.1ad under": own + tag(other.vid, 0x88A8),
        "over 802.1ad": tag(other.vid, 0x88A8) + own,
        "three": own + tag(other.vid) + own,
        "0x9100": own + tag(other.vid, 0x9100),
        "two of its own": own + own,
    }[how]
    unknown = f"{station.gateway.rpartition('.')[0]}.14"
    destinations = {
        "own subnet": unknown,
        "multicast": "224.0.0.9",
        "inner": f"{240 + (other.vid >> 8)}.{other.vid & 255}.0.5",
        "another's subnet": other.address,
    }
    source = unknown if spoil == "source address" else ""
    sender = replace(station, mac="02:00:00:0f:0f:0f") if spoil == "source mac" else station
    to_mac = "02:00:00:0e:0e:0e" if spoil == "destination mac" else mac
    data = make_frame(
        sender, to_mac, tags, to=destinations.get(spoil, OUTSIDE), source=source, note=b"frame %d." % number
    )
    if spoil == "ipv6 ethertype":
        data = data[: 12 + len(tags)] + b"\x86\xdd" + data[14 + len(tags) :]
    return Attempt(station, data, how == "plain" and spoil == "nothing")


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_frames_of_random_tenants_pass_exactly_where_they_are_right(
    shared_box: Box, data: st.DataObject
) -> None:
    box, stations = shared_box, data.draw(tenants())
    gateways = [make_gateway(station) for station in stations]
    for gateway in gateways:
        box.door.create(gateway)
    ended = threading.Event()
    other = threading.Thread(target=change_others, args=(box, ended))
    other.start()
    try:
        box.drain()
        tried = [data.draw(attempted(stations, box.mac, number)) for number in range(25)]
        for each in tried:
            box.trunk.send(each.data)
        box.send(Station(vid=100, mac="02:00:00:00:00:a1"), UDP(sport=4001, dport=53) / b"the last")
        expected = {number for number, each in enumerate(tried) if each.is_right}
        heard = box.world.collect(is_ipv4, count=len(expected) + 1, timeout=1.0)
        check_heard(heard, expected)
        assert not [frame for tap in (box.trunk, box.management) for frame in tap.drain() if b"frame " in frame.data]
    finally:
        ended.set()
        other.join()
        for gateway in gateways:
            box.door.delete(gateway)


def change_others(box: Box, ended: threading.Event) -> None:
    """VLANs of other clusters come and go meanwhile."""
    passing = make_gateway(Station(vid=4094, mac="02:00:00:00:00:fe", address="10.99.0.5", gateway="10.99.0.1/24"))
    if box.door.observe([passing]).vlans:
        return  # the tenants' own
    while not ended.wait(0.01):
        box.door.create(passing)
        box.door.delete(passing)


def check_heard(heard: list[Frame], expected: set[int]) -> None:
    """Exactly *expected* left, each without a tag and from the uplink's address."""
    notes = set()
    for frame in heard:
        packet = ip_of(frame)
        assert (frame.tags, packet.src, packet.dst) == ((), UPLINK, OUTSIDE)
        note = bytes(packet[UDP].payload)
        if note.startswith(b"frame"):
            notes.add(int(note.split()[1].split(b".")[0]))
    assert notes == expected
