"""What the demonstration reads from a raw socket: pings with their tag, and nothing else."""

from __future__ import annotations

import struct

import pytest

from coordinator.lab.capture import PACKET_AUXDATA, SOL_PACKET, Ping, parse_ping

MACS = bytes.fromhex("020000000001020000000002")
VLAN_VALID = 0x10


def auxdata(*, tci: int, valid: bool) -> list[tuple[int, int, bytes]]:
    status = VLAN_VALID if valid else 0
    return [(SOL_PACKET, PACKET_AUXDATA, struct.pack("=IIIHHHH", status, 98, 98, 0, 14, tci, 0x8100))]


def packet(*, icmp: int = 8, protocol: int = 1, options: bytes = b"") -> bytes:
    head = bytes([0x40 | (5 + len(options) // 4), 0, 0, 84, 0, 0, 0, 0, 64, protocol, 0, 0])
    return head + bytes([192, 168, 10, 51, 203, 0, 113, 254]) + options + bytes([icmp, 0, 0, 0])


def ping(*, vid: int | None, kind: str = "request", outgoing: bool = False) -> Ping:
    return Ping(vid=vid, source="192.168.10.51", destination="203.0.113.254", kind=kind, outgoing=outgoing)


def test_the_tag_comes_from_the_auxiliary_data() -> None:
    frame = MACS + b"\x08\x00" + packet()
    assert parse_ping(frame, auxdata(tci=0x6064, valid=True), outgoing=False) == ping(vid=100)
    assert parse_ping(frame, auxdata(tci=0x6064, valid=False), outgoing=False) == ping(vid=None)


def test_an_inline_tag_counts_too() -> None:
    frame = MACS + b"\x81\x00\x00\x65\x08\x00" + packet(icmp=0)
    found = parse_ping(frame, auxdata(tci=0, valid=False), outgoing=True)
    assert found == ping(vid=101, kind="reply", outgoing=True)


def test_options_before_the_icmp_header_are_skipped() -> None:
    frame = MACS + b"\x08\x00" + packet(options=b"\x01\x01\x01\x00")
    assert parse_ping(frame, auxdata(tci=0, valid=False), outgoing=False) == ping(vid=None)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x08\x06" + bytes(28),
        b"\x08\x00" + packet(protocol=17),
        b"\x08\x00" + packet(icmp=3),
        b"\x08\x00" + packet()[:20],
        b"\x08\x00" + packet()[:10],
        b"\x86\xdd" + bytes(60),
    ],
    ids=["arp", "udp", "unreachable", "no icmp", "cut off", "ipv6"],
)
def test_everything_else_is_passed_over(payload: bytes) -> None:
    assert parse_ping(MACS + payload, auxdata(tci=0, valid=False), outgoing=False) is None
