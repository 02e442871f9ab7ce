"""A packet in words: read, said again, and refused with the word that is wrong."""

from __future__ import annotations

import pytest

from coordinator.packet import EXAMPLES, describe_packet, parse_packet
from proto.errors import CaasError, Code
from proto.natbox_pb2 import NatBoxExplainRequest as Packet

INSIDE, OUTSIDE = "192.168.10.50", "203.0.113.254"


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        (
            f"vid 100 {INSIDE} > {OUTSIDE} tcp 80",
            Packet(
                vid=100,
                source=INSIDE,
                destination=OUTSIDE,
                protocol="tcp",
                source_port=49152,
                destination_port=80,
            ),
        ),
        (
            "uplink 198.51.100.9 > 203.0.113.1:8774 tcp",
            Packet(
                from_uplink=True,
                source="198.51.100.9",
                destination="203.0.113.1",
                protocol="tcp",
                source_port=49152,
                destination_port=8774,
            ),
        ),
        (
            f"untagged {INSIDE}:53->{OUTSIDE}:54 udp mac 02:00:00:00:00:0A",
            Packet(
                source=INSIDE,
                destination=OUTSIDE,
                protocol="udp",
                source_port=53,
                destination_port=54,
                source_mac="02:00:00:00:00:0a",
            ),
        ),
        (f"vid 4095 {INSIDE} to {OUTSIDE}", Packet(vid=4095, source=INSIDE, destination=OUTSIDE, protocol="icmp")),
        (
            f"vid 1 {INSIDE} to {OUTSIDE}:80",
            Packet(vid=1, source=INSIDE, destination=OUTSIDE, protocol="tcp", source_port=49152, destination_port=80),
        ),
    ],
)
def test_a_packet(text: str, packet: Packet) -> None:
    assert parse_packet(text) == packet
    assert parse_packet(describe_packet(packet)) == packet


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_hint_are_right(text: str) -> None:
    assert parse_packet(text).source


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it ends where 'uplink', 'vid' or 'untagged' is needed"),
        (INSIDE, f"'{INSIDE}' where 'uplink', 'vid' or 'untagged' is needed"),
        ("vid", "it ends where a VID is needed"),
        (f"vid 0 {INSIDE} to {OUTSIDE}", "VID '0': a number within 1..4095 is needed"),
        (f"vid 4096 {INSIDE} to {OUTSIDE}", "VID '4096'"),
        (f"vid x {INSIDE} to {OUTSIDE}", "VID 'x'"),
        ("vid 1 host1 to x", "the source 'host1': ADDRESS or ADDRESS:PORT is needed"),
        (f"vid 1 {INSIDE}", "it ends where 'to' is needed"),
        (f"vid 1 {INSIDE} {OUTSIDE}", f"'{OUTSIDE}' where 'to' is needed"),
        (f"vid 1 {INSIDE} to", "it ends where the destination is needed"),
        (f"vid 1 {INSIDE} to {OUTSIDE} tcp", "tcp: the destination's port is needed"),
        (f"vid 1 {INSIDE}:9 to {OUTSIDE}", "tcp: the destination's port is needed"),
        (f"vid 1 {INSIDE} to {OUTSIDE} icmp 8", "icmp has no ports"),
        (f"vid 1 {INSIDE} to {OUTSIDE} tcp 65536", "port '65536'"),
        (f"vid 1 {INSIDE} to {OUTSIDE}: tcp", "port ''"),
        (f"vid 1 {INSIDE} to {OUTSIDE}:80 tcp 81", "two destination ports, 80 and 81"),
        (f"vid 1 {INSIDE} to {OUTSIDE} sctp 80", "'sctp' is one word too many"),
        (f"vid 1 {INSIDE} to {OUTSIDE} tcp 80 now", "'now' is one word too many"),
        (f"vid 1 {INSIDE} to {OUTSIDE} mac 02:00", "MAC '02:00'"),
        (f"vid 1 {INSIDE} to {OUTSIDE} mac", "it ends where a MAC is needed"),
    ],
)
def test_what_is_no_packet_is_told_with_what_would_be_one(text: str, why: str) -> None:
    with pytest.raises(CaasError) as caught:
        parse_packet(text)
    assert caught.value.code is Code.INVALID
    assert why in caught.value.message
    assert EXAMPLES[0] in caught.value.hint
