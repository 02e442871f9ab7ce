"""What crosses NATBox, and what does not: frames sent and captured by raw sockets, built and read by scapy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.support.crossing import MANAGEMENT, OUTSIDE, UPLINK, run
from tests.support.gateway import Station, check_sums, ip_of, is_ipv4, make_gateway
from tests.support.natbox_box import OTHER, A, B, Box, make_box


@pytest.fixture
def box() -> Iterator[Box]:
    """A box of the test's own."""
    yield from make_box()


@pytest.fixture(scope="module")
def shared_box() -> Iterator[Box]:
    """One box for the tests that send a frame or two, and change nothing but counters."""
    yield from make_box()


def test_outbound_has_no_tag_and_the_uplinks_address(shared_box: Box) -> None:
    box = shared_box
    box.drain()
    box.send(A, UDP(sport=1234, dport=53) / b"question")
    (frame,) = box.world.collect(is_ipv4)
    packet = ip_of(frame)
    assert frame.tags == ()
    assert (packet.src, packet.dst, packet.ttl) == (UPLINK, OUTSIDE, 63)
    assert bytes(packet[UDP].payload) == b"question"
    check_sums(packet)


def test_inbound_has_exactly_one_tag_and_reaches_only_its_owner(shared_box: Box) -> None:
    box = shared_box
    box.drain()
    box.send(A, UDP(sport=1234, dport=53) / b"question")
    (frame,) = box.world.collect(is_ipv4)
    box.trunk.drain()
    box.answer(frame, UDP(sport=53, dport=ip_of(frame)[UDP].sport) / b"answer")
    heard = box.packets(box.trunk)
    assert [each.tags for each in heard] == [((0x8100, 100),)], "one 802.1Q tag, priority 0, VID 100; once"
    assert (heard[0].source, heard[0].destination) == (box.mac, A.mac)
    packet = ip_of(heard[0])
    assert (packet.src, packet.dst, packet[UDP].dport) == (OUTSIDE, A.address, 1234)
    assert bytes(packet[UDP].payload).rstrip(b"\0") == b"answer"
    check_sums(IP(bytes(packet)[: packet.len]))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: UDP(sport=4000, dport=53) / b"same", id="udp"),
        pytest.param(lambda: TCP(sport=4000, dport=80, flags="S", seq=7), id="tcp"),
        pytest.param(lambda: ICMP(id=77, seq=1) / b"same", id="icmp"),
    ],
)
def test_two_vlans_with_one_address_and_port_at_once(box: Box, make: Callable[[], Packet]) -> None:
    box.send(A, make())
    box.send(B, make())
    frames = box.world.collect(is_ipv4, count=2)
    assert len(frames) == 2
    box.trunk.drain()
    ports = []
    for number, frame in enumerate(frames):
        packet = ip_of(frame)
        check_sums(packet)
        if packet.haslayer(ICMP):
            ports.append(packet[ICMP].id)
            box.answer(frame, ICMP(type=0, id=packet[ICMP].id, seq=1) / f"for {number}".encode())
        elif packet.haslayer(TCP):
            ports.append(packet.sport)
            box.answer(frame, TCP(sport=80, dport=packet.sport, flags="SA", seq=number, ack=8))
        else:
            ports.append(packet.sport)
            box.answer(frame, UDP(sport=53, dport=packet.sport) / f"for {number}".encode())
    assert ports[0] != ports[1], "the world must be able to tell the two apart"
    heard = box.packets(box.trunk)
    assert sorted((each.tags, each.destination) for each in heard) == [
        (((0x8100, 100),), A.mac),
        (((0x8100, 200),), B.mac),
    ]
    for each in heard:
        packet = ip_of(each)
        assert packet.dst == A.address
        number = 0 if each.destination == A.mac else 1
        if packet.haslayer(TCP):
            assert (packet.dport, packet[TCP].seq) == (4000, number)
        else:
            assert f"for {number}".encode() in bytes(packet), "each hears its own answer"


def test_fragments_of_two_vlans_with_one_address_and_id_are_not_mixed(box: Box) -> None:
    parts = {
        station: fragment(  # type: ignore[no-untyped-call]
            IP(src=station.address, dst=OUTSIDE, id=99) / UDP(sport=5000, dport=53) / (fill * 2000), fragsize=1400
        )
        for station, fill in ((A, b"a"), (B, b"b"))
    }
    for one, other in zip(parts[A], reversed(parts[B]), strict=True):
        for station, part in ((A, one), (B, other)):
            box.trunk.send(bytes(Ether(src=station.mac, dst=box.mac) / Dot1Q(vlan=station.vid) / part))
    frames = [ip_of(frame) for frame in box.world.collect(is_ipv4, count=4)]
    payloads: dict[int, bytearray] = {}
    for packet in frames:
        start, data = packet.frag * 8, bytes(packet.payload)
        whole = payloads.setdefault(data[-1], bytearray(2008))  # every fragment ends in its sender's letter
        whole[start : start + len(data)] = data
    assert sorted(bytes(whole[8:]) for whole in payloads.values()) == [b"a" * 2000, b"b" * 2000]


WRONG: dict[str, tuple[Callable[[str], Packet], int, str]] = {
    "untagged": (lambda mac: Ether(src=A.mac, dst=mac) / _question(A), 0, "untagged"),
    "VID nobody has": (lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=101) / _question(A), 0, "VID of no cluster"),
    "VID 0": (lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=0) / _question(A), 0, "VID 0 or 4095"),
    "VID 4095": (lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=4095) / _question(A), 0, "VID 0 or 4095"),
    "802.1ad": (lambda mac: Ether(src=A.mac, dst=mac) / Dot1AD(vlan=100) / _question(A), 0, "tag is not 802.1Q"),
    "two 802.1Q tags": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100) / Dot1Q(vlan=200) / _question(A), 100, "second tag"
    ),
    "two times its own tag": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100) / Dot1Q(vlan=100) / _question(A), 100, "second tag"
    ),
    "802.1ad under 802.1Q": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100) / Dot1AD(vlan=200) / _question(A), 100, "second tag"
    ),
    "802.1Q under 802.1ad": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1AD(vlan=200) / Dot1Q(vlan=100) / _question(A), 0,
        "tag is not 802.1Q",
    ),
    "0x9100 under 802.1Q": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100, type=0x9100) / Raw(b"\0\xc8\x08\0" + bytes(20)),
        100, "second tag",
    ),
    "LLC/SNAP": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100, type=60) / LLC() / SNAP(code=0x0800) / _question(A),
        100, "EtherType",
    ),
    "IPv6": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100) / IPv6(src="fe80::1", dst="2001:db8::1") / UDP(),
        100, "EtherType",
    ),
    "another source address": (
        lambda mac: _frame(A, mac, IP(src="192.168.10.51", dst=OUTSIDE) / UDP(dport=53)), 100, "spoofed source"
    ),
    "an address of another VLAN": (
        lambda mac: _frame(A, mac, IP(src=OTHER.address, dst=OUTSIDE) / UDP(dport=53)), 100, "spoofed source"
    ),
    "an inner address": (
        lambda mac: _frame(A, mac, IP(src="240.200.10.50", dst=OUTSIDE) / UDP(dport=53)), 100, "spoofed source"
    ),
    "another source MAC": (
        lambda mac: Ether(src=B.mac, dst=mac) / Dot1Q(vlan=100) / _question(A), 100, "spoofed source"
    ),
    "to another VLAN's subnet": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst=OTHER.address) / UDP(dport=53)), 100, "to another VLAN"
    ),
    "to its own subnet": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="192.168.10.51") / UDP(dport=53)), 100, "to its own subnet"
    ),
    "to another VLAN's inner address": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="240.200.10.50") / UDP(dport=53)), 100, "not unicast"
    ),
    "to another MAC": (
        lambda mac: Ether(src=A.mac, dst="02:00:00:00:ff:ff") / Dot1Q(vlan=100) / _question(A), 100, "MAC not ours"
    ),
    "broadcast": (
        lambda mac: Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=100) / _question(A), 100, "MAC not ours"
    ),
    "to multicast": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="224.0.0.5") / UDP(dport=53)), 100, "not unicast"
    ),
    "to the loopback": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="127.0.0.1") / UDP(dport=53)), 100, "not unicast"
    ),
    "a source route": (
        lambda mac: _frame(
            A, mac, IP(src=A.address, dst=OUTSIDE, options=[IPOption_LSRR(routers=[MANAGEMENT])]) / UDP(dport=53)
        ),
        100, "IP options",
    ),
    "to NATBox's management": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst=MANAGEMENT) / TCP(dport=7444, flags="S")), 100,
        "to NATBox's own address",
    ),
    "to NATBox's uplink": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst=UPLINK) / TCP(dport=22, flags="S")), 100,
        "to NATBox's own address",
    ),
    "to the stack's own": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="240.0.0.1") / UDP(dport=53)), 100, "not unicast"
    ),
    "to the management network": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="192.168.2.1") / UDP(dport=53)), 100, "not to the uplink"
    ),
    "TCP to the gateway": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst="192.168.10.1") / TCP(dport=22, flags="S")), 100,
        "to the gateway itself",
    ),
    "half a header": (
        lambda mac: Ether(src=A.mac, dst=mac) / Dot1Q(vlan=100, type=0x0800) / Raw(b"\x45\0\0\x14"), 100, "malformed"
    ),
    "no TCP header": (
        lambda mac: _frame(A, mac, IP(src=A.address, dst=OUTSIDE, proto=6)), 100, "malformed"
    ),
}  # fmt: skip


def _question(station: Station) -> Packet:
    return IP(src=station.address, dst=OUTSIDE) / UDP(sport=1, dport=53) / b"leak"


def _frame(station: Station, mac: str, packet: Packet) -> Packet:
    return Ether(src=station.mac, dst=mac) / Dot1Q(vlan=station.vid) / packet


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_is_dropped_and_counted(shared_box: Box, name: str) -> None:
    box, (make, vid, reason) = shared_box, WRONG[name]
    before = box.drain()
    box.trunk.send(bytes(make(box.mac)))
    box.hears_nothing(box.world, box.management, box.trunk)
    assert box.drops_since(before) == {(vid, reason): 1}
    # The same wire, sender and world carry what is right: silence above was no accident.
    box.send(A, UDP(sport=1, dport=53) / b"right")
    assert len(box.world.collect(is_ipv4)) == 1


def test_the_silence_of_these_tests_is_broken_by_whatever_passes(shared_box: Box) -> None:
    box = shared_box
    for tap, to in ((box.world, OUTSIDE), (box.trunk, "192.168.10.1")):
        box.drain()
        for _ in range(2):
            box.send(A, ICMP(id=5, seq=9), to=to)
        assert len(box.packets(tap)) == 2
        box.send(A, ICMP(id=5, seq=9), to=to)
        with pytest.raises(AssertionError, match="forwarded"):
            box.hears_nothing(tap)
        box.hears_nothing(tap)


@pytest.mark.parametrize(
    "destination", [UPLINK, "192.168.10.50", "240.100.10.50", "240.0.0.1", "192.168.10.1", MANAGEMENT]
)
def test_what_nobody_asked_for_does_not_come_in(shared_box: Box, destination: str) -> None:
    box = shared_box
    box.send(A, UDP(sport=1234, dport=53) / b"question")  # a connection to the same peer exists
    (frame,) = box.world.collect(lambda each: is_ipv4(each) and b"question" in each.data)
    before = box.drain()
    port = ip_of(frame).sport ^ 1 if destination == UPLINK else 1234
    packet = IP(src=OUTSIDE, dst=destination) / UDP(sport=53, dport=port)
    box.world.send(bytes(Ether(src=frame.destination, dst=frame.source) / packet))
    box.hears_nothing(box.trunk, box.management)
    assert box.drops_since(before) == {(0, "nobody asked for it"): 1}


def test_the_gateway_answers_arp_and_echo_in_each_vlan(box: Box) -> None:
    for station in (A, B):
        box.trunk.drain()
        ask = ARP(op=1, hwsrc=station.mac, psrc=station.address, pdst="192.168.10.1")
        box.trunk.send(bytes(Ether(src=station.mac, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=station.vid, prio=5) / ask))
        question = IP(src=station.address, dst="192.168.10.1", ttl=7) / ICMP(id=5, seq=9) / b"hello"
        box.trunk.send(bytes(_frame(station, box.mac, question)))
        arp, echo = box.trunk.collect(lambda frame: True, count=2)
        for frame in (arp, echo):
            assert frame.tags == ((0x8100, station.vid),), "the answer's priority is ours, not the asker's"
            assert (frame.source, frame.destination) == (box.mac, station.mac)
        reply = ARP(arp.payload)
        assert (reply.op, reply.hwsrc, reply.psrc) == (2, box.mac, "192.168.10.1")
        assert (reply.hwdst, reply.pdst) == (station.mac, station.address)
        packet = ip_of(echo)
        assert (packet.src, packet.dst, packet.ttl) == ("192.168.10.1", station.address, 64)
        assert (packet[ICMP].type, packet[ICMP].id, packet[ICMP].seq) == (0, 5, 9)
        check_sums(packet)


@pytest.mark.parametrize("to", ["ff:ff:ff:ff:ff:ff", "ours"])
@pytest.mark.parametrize("sender", [A.address, "0.0.0.0"])
def test_arp_is_answered_whether_asked_of_all_or_of_us_and_to_probes(shared_box: Box, sender: str, to: str) -> None:
    box = shared_box
    box.drain()
    ask = ARP(op=1, hwsrc=A.mac, psrc=sender, pdst="192.168.10.1")
    box.trunk.send(bytes(Ether(src=A.mac, dst=box.mac if to == "ours" else to) / Dot1Q(vlan=100) / ask))
    (frame,) = box.trunk.collect(lambda each: True)
    reply = ARP(frame.payload)
    assert (frame.tags, reply.op, reply.hwsrc, reply.pdst) == (((0x8100, 100),), 2, box.mac, sender)


@pytest.mark.parametrize(
    ("arp", "reason"),
    [
        pytest.param(
            ARP(op=1, hwsrc=A.mac, psrc="192.168.10.99", pdst="192.168.10.1"), "spoofed ARP", id="unknown sender"
        ),
        pytest.param(ARP(op=1, hwsrc=B.mac, psrc=A.address, pdst="192.168.10.1"), "spoofed ARP", id="another MAC"),
        pytest.param(ARP(op=1, hwsrc=A.mac, psrc=A.address, pdst="192.168.10.51"), "ARP not for us", id="not for us"),
        pytest.param(ARP(op=2, hwsrc=A.mac, psrc=A.address, pdst="192.168.10.1"), "ARP not for us", id="an answer"),
        pytest.param(ARP(op=1, hwsrc=A.mac, psrc=A.address, pdst=UPLINK), "ARP not for us", id="NATBox's own"),
    ],
)
def test_other_arp_is_not_answered(shared_box: Box, arp: Packet, reason: str) -> None:
    box = shared_box
    before = box.drain()
    box.trunk.send(bytes(Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=100) / arp))
    box.settle()
    assert [frame.tags for frame in box.trunk.drain()] == [((0x8100, OTHER.vid),)], "only who asked last is answered"
    assert box.drops_since(before) == {(100, reason): 1}


def test_time_exceeded_comes_from_the_gateway_into_the_vlan(box: Box) -> None:
    packet = IP(src=A.address, dst=OUTSIDE, ttl=1, id=3) / UDP(sport=1234, dport=53) / b"question"
    box.trunk.send(bytes(_frame(A, box.mac, packet)))
    (frame,) = box.trunk.collect(is_ipv4)
    assert frame.tags == ((0x8100, 100),)
    error = ip_of(frame)
    assert (error.src, error.dst, error[ICMP].type) == ("192.168.10.1", A.address, 11)
    about = error[ICMP].payload
    assert (about.src, about.dst, about.sport) == (A.address, OUTSIDE, 1234)
    check_sums(error)


def test_fragmentation_needed_reaches_the_sender_in_its_vlan(box: Box) -> None:
    run("ip", "link", "set", "eth2", "mtu", "1300", netns=box.around.natbox)
    packet = IP(src=A.address, dst=OUTSIDE, flags="DF", id=3) / UDP(sport=1234, dport=53) / (b"x" * 1400)
    box.trunk.send(bytes(_frame(A, box.mac, packet)))
    (frame,) = box.trunk.collect(is_ipv4)
    error = ip_of(frame)
    assert frame.tags == ((0x8100, 100),)
    assert (error.src, error.dst) == ("192.168.10.1", A.address)
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1300)
    assert (error[ICMP].payload.src, error[ICMP].payload.sport) == (A.address, 1234)
    check_sums(error)


def test_an_error_from_the_world_reaches_the_sender_in_its_vlan(box: Box) -> None:
    box.send(A, UDP(sport=1234, dport=53) / (b"x" * 600))
    (frame,) = box.world.collect(is_ipv4)
    box.trunk.drain()
    seen = ip_of(frame)
    router = "198.51.100.9"
    box.answer(frame, ICMP(type=3, code=4, nexthopmtu=576) / Raw(bytes(seen)[:28]), source=router)
    (heard,) = box.trunk.collect(is_ipv4)
    assert heard.tags == ((0x8100, 100),)
    error = ip_of(heard)
    assert (error.src, error.dst, error[ICMP].nexthopmtu) == (router, A.address, 576)
    about = error[ICMP].payload
    assert (about.src, about.dst, about.sport, about.dport) == (A.address, OUTSIDE, 1234, 53)
    check_sums(IP(bytes(error)[: error.len]))


def test_an_error_from_a_container_reaches_the_world(box: Box) -> None:
    box.send(A, UDP(sport=1234, dport=53) / b"question")
    (frame,) = box.world.collect(is_ipv4)
    port = ip_of(frame).sport
    box.answer(frame, UDP(sport=53, dport=port) / b"too late")
    (late,) = box.trunk.collect(is_ipv4)
    box.send(A, ICMP(type=3, code=3) / Raw(late.payload[:28]))
    (heard,) = box.world.collect(is_ipv4)
    error = ip_of(heard)
    assert (error.src, error[ICMP].type, error[ICMP].code) == (UPLINK, 3, 3)
    about = error[ICMP].payload
    assert (about.src, about.dst, about.dport) == (OUTSIDE, UPLINK, port)
    check_sums(error)


def test_syn_is_clamped_to_the_uplinks_mtu(box: Box) -> None:
    run("ip", "link", "set", "eth2", "mtu", "1300", netns=box.around.natbox)
    box.send(A, TCP(sport=4000, dport=80, flags="S", options=[("MSS", 1460)]))
    (frame,) = box.world.collect(is_ipv4)
    packet = ip_of(frame)
    assert dict(packet[TCP].options)["MSS"] == 1260
    check_sums(packet)


def test_udp_without_a_sum_stays_without(box: Box) -> None:
    box.send(A, UDP(sport=1234, dport=53, chksum=0) / b"question")
    (frame,) = box.world.collect(is_ipv4)
    assert ip_of(frame)[UDP].chksum == 0


def test_counters_count_what_passed(box: Box) -> None:
    for _ in range(3):
        box.send(A, UDP(sport=1234, dport=53) / b"question")
    frames = box.world.collect(is_ipv4, count=3)
    box.answer(frames[0], UDP(sport=53, dport=ip_of(frames[0]).sport) / b"answer!")
    assert box.trunk.collect(is_ipv4)
    counters = box.door.counters([100, 200])
    assert (counters[0].out_packets, counters[0].out_bytes) == (3, 3 * 36)
    assert (counters[0].in_packets, counters[0].in_bytes) == (1, 35)
    assert (counters[1].out_packets, counters[1].in_packets, counters[1].drops) == (0, 0, ())


def test_strict_reverse_path_filtering_lets_vlans_through(box: Box) -> None:
    for link in ("all", "eth1", "eth2"):
        run("sysctl", "-qw", f"net.ipv4.conf.{link}.rp_filter=1", netns=box.around.natbox)
    box.send(A, UDP(sport=1234, dport=53) / b"question")
    (frame,) = box.world.collect(is_ipv4)
    box.trunk.drain()
    box.answer(frame, UDP(sport=53, dport=ip_of(frame).sport) / b"answer")
    assert len(box.trunk.collect(is_ipv4)) == 1


@pytest.mark.parametrize("address", [MANAGEMENT, UPLINK])
def test_a_container_may_have_an_address_that_natbox_has(box: Box, address: str) -> None:
    subnet = address.rpartition(".")[0]
    station = Station(vid=400, mac="02:00:00:00:00:d1", address=address, gateway=f"{subnet}.2/24")
    box.door.create(make_gateway(station))
    peer = "198.51.100.7"
    box.send(station, UDP(sport=1234, dport=53) / b"question", to=peer)
    (frame,) = box.world.collect(is_ipv4)
    box.trunk.drain()
    box.answer(frame, UDP(sport=53, dport=ip_of(frame).sport) / b"answer", source=peer)
    (heard,) = box.trunk.collect(is_ipv4)
    assert (heard.tags, heard.destination, ip_of(heard).dst) == (((0x8100, 400),), station.mac, address)


def test_a_subnet_as_large_as_it_may_be_keeps_its_hosts_apart(box: Box) -> None:
    one = Station(vid=400, mac="02:00:00:00:00:d1", address="10.9.1.2", gateway="10.9.0.1/16")
    other = Station(vid=400, mac="02:00:00:00:00:d2", address="10.9.255.2", gateway="10.9.0.1/16")
    box.door.create(make_gateway(one, other))
    for station in (one, other):
        box.send(station, UDP(sport=1234, dport=53) / b"question")
        (frame,) = box.world.collect(is_ipv4)
        box.trunk.drain()
        box.answer(frame, UDP(sport=53, dport=ip_of(frame).sport) / b"answer")
        (heard,) = box.trunk.collect(is_ipv4)
        assert (heard.destination, ip_of(heard).dst) == (station.mac, station.address)
