"""Connections as ctnetlink's messages: what a dump says is read, and made anew exactly as it was."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import natbox_conntrack as wire
from agent.kernel.natbox_carried import is_inner
from proto.errors import CaasError
from proto.model import Connection, Flow, TcpProgress
from tests.support.connections import connections

#: The body of what Linux 6.18 dumped of one connection, 240.100.10.50:40000 -> 203.0.113.254:80 as 203.0.113.1:1234,
#: established; with an id, a use count and a synproxy's attribute, which are not carried.
DUMPED = (
    "02000000"
    "340001801400018008000100f0640a3208000200cb0071fe1c0002800500010006000000060002009c4000000600030000500000"
    "340002801400018008000100cb0071fe08000200cb0071011c000280050001000600000006000200005000000600030004d20000"
    "080003000000019e08000800ca00006408000c00c6fce15908000b00000000010800070000061a7f"
    "300004802c000180050001000300000005000200070000000500030009000000060004000b000000060005000b000000"
    "1c001880080001000000000008000200000000000800030000000000"
)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def body_of(message: bytes) -> bytes:
    (read,) = wire.read_messages(message)
    return read[3]


def as_dumped(connection: Connection) -> bytes:
    """The body that a kernel would dump of *connection*: that of its making, with the translated reply, and no NAT."""
    made = dict(attributes(body_of(wire.make_new(connection, 1))[4:]))
    turned = connection._replace(original=connection.reply)
    reply = dict(attributes(body_of(wire.make_delete(turned, 1))[4:]))[1]
    parts = b""
    for kind in sorted(made.keys() - {6, 13}):
        value = reply if kind == 2 else made[kind]
        parts += struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
    return bytes(4) + parts


def test_a_dumped_connection_is_read() -> None:
    read = wire.read_connection(bytes.fromhex(DUMPED))
    assert read == Connection(
        protocol=6,
        original=Flow(0xF0640A32, 0xCB0071FE, 40000, 80),
        reply=Flow(0xCB0071FE, 0xCB007101, 80, 1234),
        status=0x19E,
        timeout=399999,
        mark=0xCA000064,
        tcp=TcpProgress(state=3, scales=(7, 9), flags=(0x0B, 0x0B)),
    )
    assert is_inner(read)


@given(connections)
def test_what_is_made_is_what_was_read(connection: Connection) -> None:
    read = wire.read_connection(as_dumped(connection))
    assert read is not None
    tcp = connection.tcp
    if tcp is not None:
        flags = tuple(each & wire.TCP_FLAGS | wire.BE_LIBERAL for each in tcp.flags)
        tcp = tcp._replace(flags=(flags[0], flags[1]))
    assert read == connection._replace(tcp=tcp, status=connection.status & ~wire.EXPECTED)


@given(connections)
def test_the_source_is_translated_to_exactly_what_it_was(connection: Connection) -> None:
    made = dict(attributes(body_of(wire.make_new(connection, 1))[4:]))
    nat = dict(attributes(made[6]))
    assert nat[1] == nat[2] == connection.reply.destination.to_bytes(4, "big")
    ports = dict(attributes(nat[3]))
    port = connection.reply.source_port if connection.protocol == wire.ICMP else connection.reply.destination_port
    assert ports[1][:2] == ports[2][:2] == port.to_bytes(2, "big")
    assert 13 not in made, "its destination is nobody's to translate"


@given(connections)
def test_the_kernel_is_not_told_to_look_among_all_connections_of_the_same_source(connection: Connection) -> None:
    """It takes the source from the reply that it is told, and walks over all that this source began."""
    made = dict(attributes(body_of(wire.make_new(connection, 1))[4:]))
    named = connection._replace(original=connection.reply)
    told, real = (
        dict(attributes(each)) for each in (made[2], dict(attributes(body_of(wire.make_delete(named, 1))[4:]))[1])
    )
    assert told[1] == real[1], "the outer address, and the same peer"
    port = 4 if connection.protocol == wire.ICMP else 3
    ports, real_ports = dict(attributes(told[2])), dict(attributes(real[2]))
    assert ports.pop(port) != real_ports.pop(port), "else the kernel would find nothing to translate"
    assert ports == real_ports


def test_the_answer_to_an_echo_request_is_a_reply() -> None:
    assert wire.turn_round(wire.ICMP, Flow(1, 2, 77, 8 << 8)) == Flow(2, 1, 77, 0)
    assert wire.turn_round(wire.ICMP, Flow(2, 1, 77, 0)) == Flow(1, 2, 77, 8 << 8)
    assert wire.turn_round(wire.UDP, Flow(1, 2, 3, 4)) == Flow(2, 1, 4, 3)


def test_a_published_port_is_translated_to_its_container() -> None:
    there = Flow(0xCB0071FE, 0xCB007101, 50000, 8774)
    one = Connection(6, there, Flow(0xF0640A32, 0xCB0071FE, 80, 50000), 8, 60, 0, TcpProgress(3, (0, 0), (0, 0)))
    made = dict(attributes(body_of(wire.make_new(one, 1))[4:]))
    assert 6 not in made
    nat = dict(attributes(made[13]))
    assert nat[1] == bytes.fromhex("f0640a32")
    assert dict(attributes(nat[3]))[1][:2] == (80).to_bytes(2, "big")
    assert is_inner(one)


def test_what_is_over_or_of_another_kind_is_left() -> None:
    one = Connection(6, Flow(0xF0640A32, 1, 2, 3), Flow(1, 0xCB007101, 3, 2), 8, 60, 0, TcpProgress(3, (0, 0), (0, 0)))
    assert wire.read_connection(as_dumped(one)) is not None
    assert one.tcp is not None
    for state in (0, *wire.TCP_ENDED, 10):
        assert wire.read_connection(as_dumped(one._replace(tcp=one.tcp._replace(state=state)))) is None
    dying = as_dumped(one).replace(struct.pack("!I", 8), struct.pack("!I", 8 | wire.DYING))
    assert wire.read_connection(dying) is None
    with pytest.raises(CaasError, match="protocol 47"):
        wire.make_new(one._replace(protocol=47), 1)
    assert not is_inner(one._replace(original=Flow(1, 2, 3, 4)))


@given(st.lists(connections, max_size=5), st.integers(0, 1000))
def test_a_datagram_is_read_message_by_message(some: list[Connection], sequence: int) -> None:
    data = b"".join(wire.make_delete(each, sequence) for each in some)
    read = list(wire.read_messages(data))
    assert [(kind, number) for kind, _, number, _ in read] == [(wire.DELETE, sequence)] * len(some)
    assert b"".join(body for *_, body in read) == b"".join(body_of(wire.make_delete(each, 1)) for each in some)


def test_a_message_that_says_more_than_there_is_is_refused() -> None:
    with pytest.raises(CaasError, match="a message of 64 bytes in a datagram of 20"):
        list(wire.read_messages(struct.pack("=IHHII", 64, 2, 0, 0, 0) + bytes(4)))


def test_answers_are_read() -> None:
    assert wire.read_error(struct.pack("=i", -17)) == 17
    assert wire.read_error(bytes(4)) == wire.read_error(b"") == 0
