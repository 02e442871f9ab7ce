"""A packet in words, as `caas natbox explain` takes it.

    WHERE SOURCE[:PORT] to DESTINATION[:PORT] [PROTOCOL [PORT]] [mac MAC]

WHERE is `uplink`, `vid N` or `untagged`: by which link it arrives, and with which tag. `>` and `->` stand for `to`.
PROTOCOL is tcp, udp or icmp: without it icmp, or tcp where there is a port.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address
from typing import NoReturn

from proto import natbox_pb2 as pb
from proto.errors import invalid
from proto.model.gateway import PORT_MAX

EXAMPLES = (
    "vid 100 192.168.10.50 to 203.0.113.254 tcp 80",
    "uplink 198.51.100.9 to 203.0.113.1:8774",
    "vid 100 192.168.10.50 to 203.0.113.254 icmp",
)
PROTOCOLS = ("tcp", "udp", "icmp")
#: A client's port where none is said: the first of those for anybody (RFC 6335).
SOURCE_PORT = 49152
VID_MAX = 4095
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


class _Words:
    """The words that are left."""

    def __init__(self, text: str) -> None:
        self._left = re.sub(r"->|>", " to ", text).split()

    def peek(self) -> str:
        return self._left[0] if self._left else ""

    def take(self, wanted: str) -> str:
        """The next word; INVALID says what is *wanted* where there is none."""
        if not self._left:
            _wrong(f"it ends where {wanted} is needed")
        return self._left.pop(0)


def _wrong(why: str) -> NoReturn:
    raise invalid(f"packet: {why}", hint=f"as in: {'; '.join(EXAMPLES)}")


def parse_packet(text: str) -> pb.NatBoxExplainRequest:
    """What *text* says. INVALID names the word that is wrong, and what was wanted."""
    words = _Words(text)
    packet = pb.NatBoxExplainRequest()
    _read_where(words, packet)
    packet.source, source_port = _read_end(words, "the source")
    if (word := words.take("'to'")) != "to":
        _wrong(f"{word!r} where 'to' is needed")
    packet.destination, destination_port = _read_end(words, "the destination")
    if words.peek() in PROTOCOLS:
        packet.protocol = words.take("a protocol")
        if words.peek().isdigit():
            if destination_port:
                _wrong(f"two destination ports, {destination_port} and {words.peek()}")
            destination_port = _port(words.take("a port"))
    if words.peek() == "mac":
        words.take("mac")
        packet.source_mac = _mac(words.take("a MAC"))
    if words.peek():
        _wrong(f"{words.peek()!r} is one word too many")
    _set_ports(packet, source_port, destination_port)
    return packet


def _read_where(words: _Words, packet: pb.NatBoxExplainRequest) -> None:
    match words.take("'uplink', 'vid' or 'untagged'"):
        case "uplink":
            packet.from_uplink = True
        case "vid":
            number = words.take("a VID")
            if not number.isdigit() or not 1 <= int(number) <= VID_MAX:
                _wrong(f"VID {number!r}: a number within 1..{VID_MAX} is needed")
            packet.vid = int(number)
        case "untagged":
            pass
        case word:
            _wrong(f"{word!r} where 'uplink', 'vid' or 'untagged' is needed")


def _read_end(words: _Words, what: str) -> tuple[str, int]:
    word = words.take(what)
    address, colon, port = word.partition(":")
    try:
        IPv4Address(address)
    except AddressValueError:
        _wrong(f"{what} {word!r}: ADDRESS or ADDRESS:PORT is needed")
    return address, _port(port) if colon else 0


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= PORT_MAX:
        _wrong(f"port {text!r}: a number within 1..{PORT_MAX} is needed")
    return int(text)


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        _wrong(f"MAC {text!r}: six pairs of hexadecimal digits are needed, with colons")
    return text.lower()


def _set_ports(packet: pb.NatBoxExplainRequest, source: int, destination: int) -> None:
    packet.protocol = packet.protocol or ("tcp" if source or destination else "icmp")
    if packet.protocol == "icmp":
        if source or destination:
            _wrong("icmp has no ports")
    elif not destination:
        _wrong(f"{packet.protocol}: the destination's port is needed")
    else:
        packet.source_port, packet.destination_port = source or SOURCE_PORT, destination


def describe_packet(packet: pb.NatBoxExplainRequest) -> str:
    """*packet* in the words that it is parsed from."""
    where = "uplink" if packet.from_uplink else f"vid {packet.vid}" if packet.vid else "untagged"
    ends = packet.source, packet.destination
    if packet.protocol != "icmp":
        ends = f"{packet.source}:{packet.source_port}", f"{packet.destination}:{packet.destination_port}"
    mac = f" mac {packet.source_mac}" if packet.source_mac else ""
    return f"{where} {ends[0]} to {ends[1]} {packet.protocol}{mac}"
