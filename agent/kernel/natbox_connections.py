"""The connections of VLANs in the kernel's table (conntrack), by the mark they carry (natbox_layout.MARK_*)."""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.natbox_layout import INNER, MARK_ACROSS, MARK_IN, MARK_OUT, read_inner_vid
from agent.kernel.netlink import KernelError
from agent.kernel.nfnetlink import NfNetlink, make_attribute, read_attributes
from agent.kernel.tally import Tally

SUBSYSTEM, GET, DELETE = 1, 1, 2
#: linux/netfilter/nfnetlink_conntrack.h: CTA_*, CTA_TUPLE_*, CTA_IP_*, CTA_PROTO_*
TUPLE_ORIG, TUPLE_REPLY, MARK, MARK_MASK = 1, 2, 8, 21
TUPLE_IP, TUPLE_PROTO, IP_SOURCE, IP_DESTINATION, PROTO_NUMBER, PROTO_DESTINATION = 1, 2, 1, 2, 1, 3
WHOLE_MARK, VID_BITS, KIND_BITS = 0xFFFFFFFF, 0xFFF, 0xFF000000
#: The bit in which a connection that a VLAN began differs from one that came to it.
_OUT_OR_IN = WHOLE_MARK ^ MARK_OUT ^ MARK_IN
#: What the marks of all connections of ours have in common, and which bits that are.
_ANY, _ANY_BITS = 0xC8000000, 0xF8000000
_PROC = Path("/proc/sys/net/netfilter")
_WORD = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection: its mark, and addresses and ports as its first packet had them, and as the answer has them."""

    mark: int
    protocol: int
    source: ipaddress.IPv4Address
    destination: ipaddress.IPv4Address
    destination_port: int
    answer_source: ipaddress.IPv4Address
    answer_destination: ipaddress.IPv4Address
    key: bytes
    """How the kernel names it."""

    def touches(self, vid: int) -> bool:
        """Whether a container of the VLAN is at one of its ends."""
        return any(each in INNER and read_inner_vid(each) == vid for each in (self.source, self.answer_source))


class Connections:
    """Conntrack of the namespace *netns* (None: the caller's). Safe for several threads. Raises CaasError."""

    def __init__(self, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self._netns = netns
        self._tally = tally if tally is not None else Tally()
        with kernel_errors("open conntrack's netlink socket"):
            self._netlink = NfNetlink(SUBSYSTEM, netns=netns)

    def close(self) -> None:
        """Close the socket; a second time changes nothing."""
        self._netlink.close()

    def end_all(self, vid: int) -> None:
        """End every connection of the VLAN that leads outside or comes from there, and no other."""
        self._tally.add()
        with kernel_errors(f"end the connections of VID {vid}"):
            self._netlink.tell(DELETE, _filter(MARK_OUT | vid, _OUT_OR_IN))

    def end_across(self, vid: int) -> None:
        """End every connection between the VLAN and another, or itself, that goes by what is published."""
        self._end_where(MARK_ACROSS, KIND_BITS, lambda connection: connection.touches(vid))

    def end_where(self, vid: int, unwanted: Callable[[Connection], bool]) -> None:
        """End those of the VLAN that are *unwanted*. Walks all that it has."""
        self._end_where(MARK_OUT | vid, _OUT_OR_IN, unwanted)
        self._end_where(MARK_ACROSS, KIND_BITS, lambda connection: connection.touches(vid) and unwanted(connection))

    def count(self) -> Counter[int]:
        """How many connections each VLAN has; one from VLAN to VLAN counts at both. Walks the whole table."""
        found: Counter[int] = Counter()
        with kernel_errors("count connections"):
            for message in self._netlink.dump(GET, _filter(_ANY, _ANY_BITS)):
                mark = _read_mark(message)
                vids = {mark & VID_BITS}
                if mark & KIND_BITS == MARK_ACROSS:
                    vids.add(read_inner_vid(_read(message, mark).answer_source))
                found.update(vids)
        return found

    def total(self) -> int:
        """How many connections the table holds, ours and others."""
        return self._number("nf_conntrack_count")

    def most(self) -> int:
        """How many it may hold; 0 where the kernel does not say."""
        return self._number("nf_conntrack_max")

    def _number(self, name: str) -> int:
        try:
            return int(run_inside(self._netns, (_PROC / name).read_text))
        except OSError:
            return 0

    def _end_where(self, mark: int, bits: int, unwanted: Callable[[Connection], bool]) -> None:
        with kernel_errors(f"end connections with mark {mark:#x}"):
            for connection in list(self._list(mark, bits)):
                if unwanted(connection):
                    self._end(connection)

    def _list(self, mark: int, bits: int) -> Iterator[Connection]:
        for message in self._netlink.dump(GET, _filter(mark, bits)):
            yield _read(message, _read_mark(message))

    def _end(self, connection: Connection) -> None:
        self._tally.add()
        try:
            self._netlink.tell(DELETE, connection.key)
        except KernelError as exc:
            if exc.errno != errno.ENOENT:  # it ended by itself
                raise


def _filter(mark: int, bits: int) -> bytes:
    return make_attribute(MARK, _WORD.pack(mark)) + make_attribute(MARK_MASK, _WORD.pack(bits))


def _read_mark(message: bytes) -> int:
    for kind, value in read_attributes(message):
        if kind == MARK:
            return int(_WORD.unpack(value)[0])
    return 0


def _read(message: bytes, mark: int) -> Connection:
    found = dict(read_attributes(message))
    begun, answer = dict(read_attributes(found[TUPLE_ORIG])), dict(read_attributes(found[TUPLE_REPLY]))
    addresses, answers = dict(read_attributes(begun[TUPLE_IP])), dict(read_attributes(answer[TUPLE_IP]))
    protocol = dict(read_attributes(begun[TUPLE_PROTO]))
    return Connection(
        mark=mark,
        protocol=protocol[PROTO_NUMBER][0],
        source=ipaddress.IPv4Address(addresses[IP_SOURCE]),
        destination=ipaddress.IPv4Address(addresses[IP_DESTINATION]),
        destination_port=int.from_bytes(protocol.get(PROTO_DESTINATION, b""), "big"),
        answer_source=ipaddress.IPv4Address(answers[IP_SOURCE]),
        answer_destination=ipaddress.IPv4Address(answers[IP_DESTINATION]),
        key=make_attribute(TUPLE_ORIG | 0x8000, found[TUPLE_ORIG]),
    )
