"""Attributes, messages and refusals, against bytes written out by hand from netlink(7)."""

from __future__ import annotations

import errno
import socket
import struct
import threading

import pytest

from agent.kernel import netlink
from agent.kernel.netlink import KernelError, Netlink

pytestmark = pytest.mark.skipif(struct.pack("=H", 1) != b"\1\0", reason="the bytes here are little-endian")


def test_attributes_are_padded_to_four_bytes() -> None:
    assert netlink.attr(3, b"ab") == b"\x06\0\x03\0ab\0\0"
    assert netlink.attr_text(3, "lo") == b"\x07\0\x03\0lo\0\0"
    assert netlink.attr_u8(1, 7) == b"\x05\0\x01\0\x07\0\0\0"
    assert netlink.attr_u16(1, 0x102) == b"\x06\0\x01\0\x02\x01\0\0"
    assert netlink.attr_u32(1, 0x1020304) == b"\x08\0\x01\0\x04\x03\x02\x01"


def test_nested_attributes_carry_their_flag_and_are_read_without_it() -> None:
    inner = netlink.attr_u32(1, 5)
    outer = netlink.nested(18, inner)
    assert outer[:4] == struct.pack("=HH", 12, 18 | 0x8000)
    assert netlink.parse_attrs(outer) == {18: inner}


def test_reading_stops_at_rubbish_instead_of_going_round() -> None:
    good = netlink.attr_u32(1, 5)
    assert netlink.parse_attrs(good + b"\0\0\0\0" + good) == {1: good[4:]}
    assert netlink.parse_attrs(good + b"\x05") == {1: good[4:]}


def test_absent_attributes_read_as_nothing() -> None:
    assert (netlink.text_of(None), netlink.u32_of(None)) == ("", 0)
    assert netlink.text_of(b"eth0\0rest") == "eth0"


def reply(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


class Scripted:
    """A socket whose answers are written beforehand: each datagram is made from the last request's number."""

    def __init__(self, *datagrams: object) -> None:
        self.sent: list[bytes] = []
        self._datagrams = list(datagrams)

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def recv(self, size: int) -> bytes:
        sequence = struct.unpack_from("=I", self.sent[-1], 8)[0]
        return self._datagrams.pop(0)(sequence)  # type: ignore[operator, no-any-return]


def scripted(*datagrams: object) -> Netlink:
    connection = Netlink()
    connection.close()
    connection._socket = Scripted(*datagrams)  # type: ignore[assignment]
    return connection


def test_an_interrupted_dump_is_taken_again() -> None:
    done = struct.pack("=i", 0)
    connection = scripted(
        lambda n: reply(16, 2 | 0x10, n, b"half") + reply(3, 2 | 0x10, n, done),
        lambda n: reply(16, 2, n, b"full") + reply(3, 2, n, done),
    )
    assert connection.dump(18, b"") == [b"full"]


def test_a_dump_that_is_always_interrupted_is_given_up() -> None:
    again = [lambda n: reply(3, 0x10, n, struct.pack("=i", 0))] * netlink.DUMP_TRIES
    with pytest.raises(KernelError) as caught:
        scripted(*again).dump(18, b"")
    assert caught.value.errno == errno.EINTR


def test_the_kernels_own_words_are_in_the_error() -> None:
    words = netlink.attr_text(1, "VLAN device already exists")
    payload = struct.pack("=i", -errno.EEXIST) + bytes(16) + words
    with pytest.raises(KernelError, match="VLAN device already exists") as caught:
        scripted(lambda n: reply(2, 0x300, n, payload)).change(16, b"")
    assert caught.value.errno == errno.EEXIST


def test_answers_to_an_abandoned_request_are_skipped() -> None:
    good = struct.pack("=i", 0) + bytes(16)
    bad = struct.pack("=i", -errno.EPERM) + bytes(16)
    connection = scripted(lambda n: reply(2, 0, n - 1, bad), lambda n: reply(2, 0, n, good))
    connection.change(16, b"")
    assert connection.tally.writes == 1


def test_each_request_of_a_batch_has_its_own_answer() -> None:
    def answer(first: int) -> bytes:
        good, bad = struct.pack("=i", 0) + bytes(16), struct.pack("=i", -errno.ENODEV) + bytes(16)
        return reply(2, 0, first, good) + reply(2, 0, first + 1, bad) + reply(2, 0, first + 2, good)

    connection = scripted(answer)
    results = connection.change_all([(16, 0, b"a"), (16, 0, b"bc"), (16, 0, b"def")])
    assert [result.errno if result else 0 for result in results] == [0, errno.ENODEV, 0]
    assert connection.tally.writes == 3


def test_a_real_kernel_answers_without_privilege_and_to_several_threads() -> None:
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    names: list[bool] = []
    with Netlink() as connection:

        def look() -> None:
            for _ in range(50):
                payloads = connection.dump(18, body)
                names.append(any(netlink.parse_attrs(each, 16).get(3) == b"lo\0" for each in payloads))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names == [True] * 200
        with pytest.raises(KernelError) as caught:
            connection.ask(18, body + netlink.attr_text(3, "no-such-link"))
        assert caught.value.errno == errno.ENODEV
        assert connection.tally.writes == 0
        assert connection._socket.family == socket.AF_NETLINK
