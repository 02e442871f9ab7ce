"""What a vlan carries, seen on the wire: the same for the kernel's realisation and for ours."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Bridge, Vlan
from tests.netns.conftest import REALISATIONS
from tests.support.netns import BOX_MAC, HOST_ADDRESS, WIRE_MAC, Site, poll_until, run
from tests.support.wire import Frame, Tap

VID = 100
BRIDGE = Bridge(name="lxcbr100", mtu=1500, mark=Mark("demo", "cluster"))
VLAN = Vlan(name="eth1.100", parent="eth1", vid=VID, mtu=1500, master="lxcbr100", mark=Mark("demo", "cluster"))
TAG = (0x8100, VID)
OUT = Ether(src=BOX_MAC, dst=WIRE_MAC)
IN = Ether(src=WIRE_MAC, dst=BOX_MAC)
COOKIE = b"caas-frame-"
#: Long enough for a frame that should not come, on two cores under software emulation.
QUIET_SECONDS = 0.3


@dataclass
class Joined:
    """A box on the bridge of VLAN 100, with taps on its link and on the wire."""

    site: Site
    door: NetlinkDoor
    box_name: str
    box: Tap
    wire: Tap

    def crosses(self, sender: Tap, receiver: Tap, frame: Packet) -> list[Frame]:
        """What *receiver* gets before a good frame that is sent after *frame* and ends the wait."""
        good = bytes((OUT if sender is self.box else IN / Dot1Q(vlan=VID)) / payload(b"the end"))
        receiver.drain()
        sender.send(bytes(frame))
        sender.send(good)
        found: list[Frame] = []

        def look() -> bool:
            found.extend(receiver.drain())
            return any(b"the end" in each.data for each in found)

        poll_until(look, deadline=10, describe=lambda: found)
        found.extend(receiver.drain())
        return [each for each in found if b"the end" not in each.data]


def payload(text: bytes) -> Packet:
    return IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=1, dport=9) / Raw(COOKIE + text)


@pytest.fixture(scope="module", params=REALISATIONS)
def joined(request: pytest.FixtureRequest) -> Iterator[Joined]:
    """One for all tests that only send and look."""
    site = Site()
    try:
        with NetlinkDoor(netns=site.host, vlan=request.param) as door, join(site, door) as made:
            yield made
    finally:
        site.close()


@pytest.fixture
def alone(site: Site, door: NetlinkDoor) -> Iterator[Joined]:
    """One for a test that changes what is there."""
    with join(site, door) as made:
        yield made


@contextlib.contextmanager
def join(site: Site, door: NetlinkDoor) -> Iterator[Joined]:
    door.create(BRIDGE)
    door.create(VLAN)
    box = site.add_box("box", BRIDGE.name)
    with Tap(box, "eth0") as inner, Tap(site.wire, "eth1") as outer:
        poll_until(lambda: _passes(inner, outer), deadline=10)
        inner.drain()
        yield Joined(site, door, box, inner, outer)


def _passes(inner: Tap, outer: Tap) -> bool:
    inner.send(bytes(OUT / payload(b"first")))
    return bool(outer.collect(lambda frame: b"first" in frame.data, timeout=0.2))


PLAIN = {
    "ipv4": payload(b"v4"),
    "ipv6": IPv6(src="fd00::1", dst="fd00::2") / UDP() / Raw(COOKIE + b"v6"),
    "arp": ARP(op="who-has", hwsrc=BOX_MAC, psrc="10.9.0.1", pdst="10.9.0.2"),
    "longest": IP(src="10.9.0.1", dst="10.9.0.2") / UDP() / Raw(b"x" * 1472),
    "shortest": IP(src="10.9.0.1", dst="10.9.0.2") / ICMP(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_leaves_is_tagged_once_and_otherwise_unchanged(joined: Joined, name: str) -> None:
    frame = OUT / PLAIN[name]
    (seen,) = joined.crosses(joined.box, joined.wire, frame)
    assert seen.tags == (TAG,)
    assert seen.data == bytes(frame)


@pytest.mark.parametrize("name", PLAIN)
def test_what_comes_tagged_arrives_untagged_and_unchanged(joined: Joined, name: str) -> None:
    (seen,) = joined.crosses(joined.wire, joined.box, IN / Dot1Q(vlan=VID) / PLAIN[name])
    assert seen.tags == ()
    assert seen.data == bytes(IN / PLAIN[name])


@pytest.mark.parametrize("destination", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05", "33:33:00:00:00:01"])
def test_broadcast_and_multicast_cross_both_ways(joined: Joined, destination: str) -> None:
    (out,) = joined.crosses(joined.box, joined.wire, replace_destination(OUT, destination) / payload(b"all"))
    assert out.tags == (TAG,)
    assert out.destination == destination
    (inward,) = joined.crosses(
        joined.wire, joined.box, replace_destination(IN, destination) / Dot1Q(vlan=VID) / payload(b"all")
    )
    assert inward.tags == ()


def replace_destination(header: Ether, destination: str) -> Ether:
    return Ether(src=header.src, dst=destination)


def test_priority_and_drop_bits_do_not_matter(joined: Joined) -> None:
    for priority in range(8):
        frame = IN / Dot1Q(vlan=VID, prio=priority, dei=priority & 1) / payload(b"priority")
        (seen,) = joined.crosses(joined.wire, joined.box, frame)
        assert (seen.tags, seen.data) == ((), bytes(IN / payload(b"priority")))


STRANGERS = {
    "untagged": IN / payload(b"stranger"),
    "next vid": IN / Dot1Q(vlan=VID + 1) / payload(b"stranger"),
    "vid 0": IN / Dot1Q(vlan=0) / payload(b"stranger"),
    "vid 0, priority": IN / Dot1Q(vlan=0, prio=7) / payload(b"stranger"),
    "vid 4095": IN / Dot1Q(vlan=4095) / payload(b"stranger"),
    "vid with our low byte": IN / Dot1Q(vlan=0x100 | VID) / payload(b"stranger"),
    "802.1ad with our vid": IN / Dot1AD(vlan=VID) / payload(b"stranger"),
    "802.1ad around our tag": IN / Dot1AD(vlan=7) / Dot1Q(vlan=VID) / payload(b"stranger"),
    "another vid around ours": IN / Dot1Q(vlan=VID + 1) / Dot1Q(vlan=VID) / payload(b"stranger"),
    "0x9100 with our vid": IN / Raw(struct.pack("!HHH", 0x9100, VID, 0x0800)) / payload(b"stranger"),
    "a tag and no more": Raw(bytes(IN)[:12] + struct.pack("!HH", 0x8100, VID)),
    "half a tag": Raw(bytes(IN)[:12] + struct.pack("!HB", 0x8100, 0)),
    "tag without a type": Raw(bytes(IN)[:12] + struct.pack("!HHB", 0x8100, VID, 8)),
    "no payload": Raw(bytes(IN)[:12] + b"\x08\x00"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_other_frames_reach_no_box_and_are_not_sent_back(joined: Joined, name: str) -> None:
    assert joined.crosses(joined.wire, joined.box, STRANGERS[name]) == []
    assert [each for each in joined.wire.drain() if COOKIE in each.data] == []


@pytest.mark.parametrize("inner", [VID, VID + 1, 0, 4095])
def test_a_second_tag_is_never_taken_for_the_first(joined: Joined, inner: int) -> None:
    """[100][N]: the kernel hands the inner tag on as it is, ours drops the frame; untagged it arrives by neither."""
    for second in (Dot1Q(vlan=inner), Dot1AD(vlan=inner)):
        arrived = joined.crosses(joined.wire, joined.box, IN / Dot1Q(vlan=VID) / second / payload(b"double"))
        for seen in arrived:
            assert [tag & 0xFFF for _, tag in seen.tags] == [inner]
        assert joined.door.datapath().vlan == "kernel" or not arrived


def test_a_priority_tag_around_ours_is_no_way_to_another_vid(joined: Joined) -> None:
    """[0][100]: 8021q takes VID 0 off and goes on with what is inside, ours leaves such a frame to the host."""
    for inner, arrives in ((VID, joined.door.datapath().vlan == "kernel"), (VID + 1, False)):
        frame = IN / Dot1Q(vlan=0, prio=3) / Dot1Q(vlan=inner) / payload(b"priority")
        assert bool(joined.crosses(joined.wire, joined.box, frame)) is arrives


DISGUISED = {
    "0x9100": Raw(struct.pack("!HHH", 0x9100, 200, 0x0800)) / payload(b"disguised"),
    "snap with a tag's type": Raw(struct.pack("!H", 60) + b"\xaa\xaa\x03\0\0\0\x81\0\0\xc8\x08\0" + COOKIE),
    "mpls": Raw(struct.pack("!H", 0x8847)) / payload(b"disguised"),
}


@pytest.mark.parametrize("name", DISGUISED)
def test_tags_in_disguise_stay_inside_ours(joined: Joined, name: str) -> None:
    """Ours carries IPv4, IPv6 and ARP only; the kernel's takes our tag off and hands on the rest as it is."""
    addresses = bytes(IN)[:12]
    frame = addresses + struct.pack("!HH", 0x8100, VID) + bytes(DISGUISED[name])
    arrived = joined.crosses(joined.wire, joined.box, Raw(frame))
    if joined.door.datapath().vlan == "bpf":
        assert arrived == []
    for seen in arrived:
        assert seen.data == addresses + bytes(DISGUISED[name])


ATTEMPTS = {
    "tagged with another vid": OUT / Dot1Q(vlan=200) / payload(b"attempt"),
    "tagged with our vid": OUT / Dot1Q(vlan=VID) / payload(b"attempt"),
    "tagged with vid 0": OUT / Dot1Q(vlan=0, prio=5) / payload(b"attempt"),
    "tagged with 4095": OUT / Dot1Q(vlan=4095) / payload(b"attempt"),
    "802.1ad": OUT / Dot1AD(vlan=200) / payload(b"attempt"),
    "two tags": OUT / Dot1Q(vlan=VID) / Dot1Q(vlan=200) / payload(b"attempt"),
    "0x9100": OUT / Raw(struct.pack("!HHH", 0x9100, 200, 0x0800)) / payload(b"attempt"),
    "snap with a tag's type": Ether(src=BOX_MAC, dst=WIRE_MAC, type=60)
    / Raw(b"\xaa\xaa\x03\x00\x00\x00\x81\x00\x00\xc8" + COOKIE),
    "half a tag": Raw(bytes(OUT)[:12] + struct.pack("!HB", 0x8100, 0)),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_box_cannot_choose_the_tag_on_the_wire(joined: Joined, name: str) -> None:
    """Whatever leaves has VID 100 outermost: a box's own tag is inside (the kernel), or ends the frame (ours)."""
    left = joined.crosses(joined.box, joined.wire, ATTEMPTS[name])
    for seen in left:
        assert seen.tags[:1] == (TAG,)
    assert joined.door.datapath().vlan == "kernel" or not left


def test_frames_longer_than_the_mtu_do_not_leave(alone: Joined) -> None:
    box = alone.box
    run("ip link set eth0 mtu 2000", netns=alone.box_name)
    run("ip link set p-box mtu 2000", netns=alone.site.host)
    # ARP: with br_netfilter a bridge fragments long IPv4, as a router would. Four bytes of grace are the kernel's.
    assert alone.crosses(box, alone.wire, OUT / ARP() / Raw(b"x" * 1480)) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.binary(min_size=2, max_size=24), size=st.integers(0, 64))
def test_no_random_frame_leaves_without_our_tag_or_arrives_without_it(joined: Joined, head: bytes, size: int) -> None:
    tail = b"\0" * size
    for seen in joined.crosses(joined.box, joined.wire, Raw(bytes(OUT)[:12] + head + tail)):
        assert seen.tags[:1] == (TAG,)
    tagged = head[:2] == b"\x81\x00" and len(head) > 3 and int.from_bytes(head[2:4], "big") & 0xFFF == VID
    assert tagged or joined.crosses(joined.wire, joined.box, Raw(bytes(IN)[:12] + head + tail)) == []


def test_untagged_frames_belong_to_the_host(alone: Joined) -> None:
    # In a site of its own: the host's neighbour probes go on for seconds after a ping.
    assert " 0% packet loss" in run(f"ping -c 2 -i 0.2 -W 2 {HOST_ADDRESS}", netns=alone.site.wire)


@pytest.mark.kinds("vlan")
def test_the_hosts_own_subinterface_beside_ours_works(alone: Joined) -> None:
    for netns, address in ((alone.site.host, "10.200.0.1"), (alone.site.wire, "10.200.0.2")):
        run("ip link add link eth1 name eth1.200 type vlan id 200 && ip link set eth1.200 up", netns=netns)
        run(f"ip address add {address}/24 dev eth1.200", netns=netns)
    assert " 0% packet loss" in run("ping -c 2 -i 0.2 -W 2 10.200.0.1", netns=alone.site.wire)


def test_nobody_of_the_hosts_speaks_in_the_segment(joined: Joined) -> None:
    """No neighbour discovery, router solicitation, IGMP or MLD report, spanning tree: nothing that no box has sent."""
    joined.box.drain(), joined.wire.drain()
    assert joined.wire.collect(lambda frame: True, timeout=2) == []
    assert joined.box.drain() == []


@pytest.mark.parametrize("asked", [HOST_ADDRESS, "127.0.0.1"])
def test_the_host_does_not_answer_in_the_segment(joined: Joined, asked: str) -> None:
    who_has = ARP(op="who-has", hwsrc=BOX_MAC, psrc="192.168.2.77", pdst=asked)
    broadcast = replace_destination(OUT, "ff:ff:ff:ff:ff:ff")
    joined.crosses(joined.box, joined.wire, broadcast / who_has)
    bridge_mac = re.search(r"link/ether (\S+)", run("ip link show lxcbr100", netns=joined.site.host))
    assert bridge_mac
    ping = Ether(src=BOX_MAC, dst=bridge_mac[1]) / IP(src="192.168.2.77", dst=asked) / ICMP()
    joined.box.send(bytes(ping))
    assert joined.box.collect(lambda frame: True, timeout=QUIET_SECONDS) == []
    assert [each for each in joined.wire.drain() if not each.tags] == [], "the host took it for its own"


def test_two_vlans_with_the_same_addresses_do_not_meet(alone: Joined) -> None:
    door, bridge, vlan = alone.door, BRIDGE, VLAN
    door.create(replace(bridge, name="lxcbr101"))
    door.create(replace(vlan, name="eth1.101", vid=101, master="lxcbr101"))
    box = alone.site.add_box("twin", "lxcbr101")
    with Tap(box, "eth0") as twin:
        poll_until(lambda: _passes(twin, alone.wire), deadline=10)
        alone.wire.drain()
        (seen,) = alone.crosses(alone.box, alone.wire, OUT / payload(b"mine"))
        assert seen.tags == (TAG,)
        alone.crosses(alone.wire, alone.box, IN / Dot1Q(vlan=VID) / payload(b"for one"))
        alone.wire.send(bytes(IN / Dot1Q(vlan=101) / payload(b"for the other")))
        texts = [each.data[-13:] for each in twin.collect(lambda frame: COOKIE in frame.data, timeout=1)]
        assert texts == [b"for the other"]
        door.delete(replace(vlan, name="eth1.101", vid=101, master="lxcbr101"))
        assert alone.crosses(alone.box, alone.wire, OUT / payload(b"still"))[0].tags == (TAG,)
        alone.wire.send(bytes(IN / Dot1Q(vlan=101) / payload(b"too late")))
        assert twin.collect(lambda frame: COOKIE in frame.data, timeout=QUIET_SECONDS) == []


def test_a_trunk_that_goes_down_and_up_again_carries_on(alone: Joined) -> None:
    run("ip link set eth1 down", netns=alone.site.host)
    alone.box.send(bytes(OUT / payload(b"lost")))
    assert alone.wire.collect(lambda frame: b"lost" in frame.data, timeout=QUIET_SECONDS) == []
    run("ip link set eth1 up", netns=alone.site.host)
    poll_until(lambda: _passes(alone.box, alone.wire), deadline=10)
