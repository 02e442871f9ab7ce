"""Entries of the kernel's connection table as ctnetlink's messages, both ways (linux/netfilter/nfnetlink_conntrack.h).

Pure. pyroute2's NFCTSocket makes objects of every attribute and waits for an answer to every entry; a hand-over has to
be over within a second with thousands of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from proto.errors import CaasError, Code, invalid
from proto.model import Connection, Flow, TcpProgress

NEW, GET, DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP_INTERRUPTED, DUMP, EXCLUSIVE, CREATE = 0x1, 0x4, 0x10, 0x300, 0x200, 0x400
ICMP, TCP, UDP, UDPLITE = 1, 6, 17, 136
#: Those whose tuples are whole with two ports, or ICMP's three numbers.
PROTOCOLS = frozenset({ICMP, TCP, UDP, UDPLITE})
#: TCP's states that are over (TIME_WAIT, CLOSE): whoever still sends there has nothing to lose.
TCP_ENDED = frozenset({7, 8})
TCP_STATE_MAX = 9
EXPECTED, CONFIRMED, DYING = 1, 8, 512  # IPS_*
WINDOW_SCALE, SACK_PERM, CLOSE_INIT, BE_LIBERAL = 1, 2, 4, 8  # IP_CT_TCP_FLAG_*
TCP_FLAGS = WINDOW_SCALE | SACK_PERM | CLOSE_INIT | BE_LIBERAL

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_FAMILY = struct.pack("=BBH", 2, 0, 0)  # nfgenmsg: AF_INET
_NESTED = 0x8000
_TYPE = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")
_LONG, _SHORT = struct.Struct("!I"), struct.Struct("!H")
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _NAT_SRC, _TIMEOUT, _MARK, _NAT_DST = 1, 2, 3, 4, 6, 7, 8, 13
_IP, _PROTO = 1, 2
_IP_SRC, _IP_DST = 1, 2
_NUM, _SRC_PORT, _DST_PORT, _ICMP_ID, _ICMP_TYPE, _ICMP_CODE = 1, 2, 3, 4, 5, 6
_INFO_TCP = 1
_TCP_STATE, _SCALE_ORIGINAL, _SCALE_REPLY, _FLAGS_ORIGINAL, _FLAGS_REPLY = 1, 2, 3, 4, 5
_NAT_MIN, _NAT_MAX, _NAT_PROTO = 1, 2, 3
_PORT_MIN, _PORT_MAX = 1, 2


def make_dump(sequence: int) -> bytes:
    """The request for every IPv4 entry."""
    return _message(GET, REQUEST | DUMP, sequence, b"")


def make_new(connection: Connection, sequence: int, *, flags: int = 0) -> bytes:
    """The message that makes *connection* anew, translated exactly as it was. INVALID where it is of no known kind."""
    if connection.protocol not in PROTOCOLS:
        raise invalid(f"connection: protocol {connection.protocol}: not one that is handed over")
    sent = turn_round(connection.protocol, connection.reply)
    parts = [
        _tuple(_TUPLE_ORIG, connection.protocol, connection.original),
        _tuple(_TUPLE_REPLY, connection.protocol, _reply_to_tell(connection, sent)),
        _long(_STATUS, connection.status & ~(EXPECTED | DYING) | CONFIRMED),
        _long(_TIMEOUT, max(connection.timeout, 1)),
        _long(_MARK, connection.mark),
        *_translations(connection, sent),
    ]
    if connection.tcp is not None:
        parts.append(_tcp_info(connection.tcp))
    return _message(NEW, REQUEST | CREATE | EXCLUSIVE | flags, sequence, b"".join(parts))


def make_delete(connection: Connection, sequence: int, *, flags: int = 0) -> bytes:
    """The message that ends *connection*."""
    parts = _tuple(_TUPLE_ORIG, connection.protocol, connection.original)
    return _message(DELETE, REQUEST | flags, sequence, parts)


def turn_round(protocol: int, flow: Flow) -> Flow:
    """What answers to *flow* look like where nothing is translated. Of ICMP only echo has answers (RFC 792)."""
    if protocol == ICMP:
        return Flow(flow.destination, flow.source, flow.source_port, flow.destination_port ^ 8 << 8)
    return Flow(flow.destination, flow.source, flow.destination_port, flow.source_port)


def read_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message in a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise CaasError(Code.FAILED, f"conntrack: a message of {length} bytes in a datagram of {len(data)}")
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def read_error(body: bytes) -> int:
    """The errno in the body of an NLMSG_ERROR or NLMSG_DONE; 0 where all is well."""
    return -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0


def read_connection(body: bytes) -> Connection | None:
    """The entry in the body of a dump's message; None where it is over or of a protocol that is not handed over."""
    found = _attributes(body, len(_FAMILY))
    original, reply, timeout = (found.get(key) for key in (_TUPLE_ORIG, _TUPLE_REPLY, _TIMEOUT))
    if original is None or reply is None or timeout is None:  # without a timeout: being removed
        return None
    protocol, there = _read_tuple(original)
    status = _number(found.get(_STATUS))
    if protocol not in PROTOCOLS or status & DYING:
        return None
    tcp = None
    if protocol == TCP:
        tcp = _read_tcp(found.get(_PROTOINFO, b""))
        if tcp is None or tcp.state in TCP_ENDED:
            return None
    if protocol == ICMP and there.destination_port != 8 << 8:
        return None
    return Connection(
        protocol=protocol,
        original=there,
        reply=_read_tuple(reply)[1],
        status=status,
        timeout=_number(timeout),
        mark=_number(found.get(_MARK)),
        tcp=tcp,
    )


def _reply_to_tell(connection: Connection, sent: Flow) -> Flow:
    """From which the kernel computes the reply, by CTA_NAT_*; *sent* is what the packets have that leave.

    Where the source is translated it is not the original's but the outer one with another port: the kernel walks over
    all connections that this source began, for one whose translation fits (find_appropriate_src in nf_nat_core.c), and
    a container may talk with tens of thousands of peers by one socket. The outer one begins none.
    """
    there = connection.original
    if (sent.source, sent.source_port) != (there.source, there.source_port):
        there = there._replace(source=sent.source, source_port=sent.source_port ^ 1)
    return turn_round(connection.protocol, there)


def _translations(connection: Connection, sent: Flow) -> list[bytes]:
    """What of the original is another in the packets that leave (source), or that arrive (destination)."""
    there = connection.original
    found = []
    if (sent.source, sent.source_port) != (there.source, there.source_port):
        found.append(_nat(_NAT_SRC, sent.source, sent.source_port))
    is_echo = connection.protocol == ICMP
    if (sent.destination, 0 if is_echo else sent.destination_port) != (
        there.destination,
        0 if is_echo else there.destination_port,
    ):
        # Of an echo the identifier is said with the source, once.
        found.append(_nat(_NAT_DST, sent.destination, None if is_echo else sent.destination_port))
    return found


def _nat(kind: int, address: int, port: int | None) -> bytes:
    parts = _long(_NAT_MIN, address) + _long(_NAT_MAX, address)
    if port is not None:
        parts += _nest(_NAT_PROTO, _short(_PORT_MIN, port) + _short(_PORT_MAX, port))
    return _nest(kind, parts)


def _tcp_info(tcp: TcpProgress) -> bytes:
    original, reply = (flags & TCP_FLAGS | BE_LIBERAL for flags in tcp.flags)
    parts = (
        _byte(_TCP_STATE, tcp.state)
        + _byte(_SCALE_ORIGINAL, tcp.scales[0])
        + _byte(_SCALE_REPLY, tcp.scales[1])
        + _attribute(_FLAGS_ORIGINAL, bytes((original, TCP_FLAGS)))
        + _attribute(_FLAGS_REPLY, bytes((reply, TCP_FLAGS)))
    )
    return _nest(_PROTOINFO, _nest(_INFO_TCP, parts))


def _tuple(kind: int, protocol: int, flow: Flow) -> bytes:
    addresses = _nest(_IP, _long(_IP_SRC, flow.source) + _long(_IP_DST, flow.destination))
    numbers = _byte(_NUM, protocol)
    if protocol == ICMP:
        numbers += _byte(_ICMP_TYPE, flow.destination_port >> 8) + _byte(_ICMP_CODE, flow.destination_port & 0xFF)
        numbers += _short(_ICMP_ID, flow.source_port)
    else:
        numbers += _short(_SRC_PORT, flow.source_port) + _short(_DST_PORT, flow.destination_port)
    return _nest(kind, addresses + _nest(_PROTO, numbers))


def _read_tuple(data: bytes) -> tuple[int, Flow]:
    inner = _attributes(data)
    addresses, numbers = _attributes(inner.get(_IP, b"")), _attributes(inner.get(_PROTO, b""))
    protocol = _number(numbers.get(_NUM))
    if protocol == ICMP:
        near = _number(numbers.get(_ICMP_ID))
        far = _number(numbers.get(_ICMP_TYPE)) << 8 | _number(numbers.get(_ICMP_CODE))
    else:
        near, far = _number(numbers.get(_SRC_PORT)), _number(numbers.get(_DST_PORT))
    return protocol, Flow(_number(addresses.get(_IP_SRC)), _number(addresses.get(_IP_DST)), near, far)


def _read_tcp(data: bytes) -> TcpProgress | None:
    found = _attributes(_attributes(data).get(_INFO_TCP, b""))
    state = _number(found.get(_TCP_STATE))
    if not 1 <= state <= TCP_STATE_MAX:
        return None
    flags = tuple(found.get(key, b"\0")[0] for key in (_FLAGS_ORIGINAL, _FLAGS_REPLY))
    scales = tuple(_number(found.get(key)) for key in (_SCALE_ORIGINAL, _SCALE_REPLY))
    return TcpProgress(state, (scales[0], scales[1]), (flags[0], flags[1]))


def _attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes that follow each other from *at* on, by type; of several of one type, the last."""
    found = {}
    end = len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & _TYPE] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def _number(data: bytes | None) -> int:
    """Big-endian, of any length; 0 where it is not there."""
    return int.from_bytes(data, "big") if data else 0


def _message(kind: int, flags: int, sequence: int, attributes: bytes) -> bytes:
    length = _HEADER.size + len(_FAMILY) + len(attributes)
    return _HEADER.pack(length, kind, flags, sequence, 0) + _FAMILY + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, parts: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(parts), kind | _NESTED) + parts


def _byte(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(5, kind) + bytes((number, 0, 0, 0))


def _short(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(6, kind) + _SHORT.pack(number) + b"\0\0"


def _long(kind: int, number: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + _LONG.pack(number)
