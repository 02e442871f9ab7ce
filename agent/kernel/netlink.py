"""One netlink connection: requests with an answer, dumps, batches; attributes to bytes and back.

Written here rather than taken from a library because observing hundreds of links has to stay below 30 ms, because
calls come from several threads, some with an event loop, and because the kernel's own words (extended
acknowledgements) belong into the message. Sources: netlink(7), rtnetlink(7), linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence

from agent.kernel.inside import run_inside
from agent.kernel.tally import Tally

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
RECEIVE_BYTES = 1 << 16
SOCKET_BUFFER_BYTES = 4 << 20
DUMP_TRIES = 10
BATCH = 64

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")


class KernelError(OSError):
    """The kernel said no: `errno`, and in `strerror` its own words where it has some."""


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTR.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def attr_u8(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=B", value))


def attr_u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def attr_u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def attr_text(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def nested(kind: int, *children: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(children))


def parse_attrs(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes in *data* from *offset* on, by type without its flags; of several of one type, the last."""
    found = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def text_of(value: bytes | None) -> str:
    """A string attribute without its NUL; "" where it is absent."""
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")


def u32_of(value: bytes | None) -> int:
    """An unsigned 32-bit attribute; 0 where it is absent."""
    return int(struct.unpack_from("=I", value)[0]) if value else 0


class Netlink:
    """A socket of one netlink family, in the caller's network namespace or in *netns*, for good.

    Safe for several threads. Changing calls are counted in *tally*.
    """

    def __init__(
        self, *, netns: str | None = None, family: int = socket.NETLINK_ROUTE, tally: Tally | None = None
    ) -> None:
        self.netns = netns
        self.tally = tally if tally is not None else Tally()
        self._lock = threading.Lock()
        self._sequence = 0
        self._socket = run_inside(netns, lambda: _open(family))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, kind: int, body: bytes) -> list[bytes]:
        """A request that changes nothing and is no dump: the payloads of the answer. Raises KernelError."""
        with self._lock:
            sequence = self._send([(kind, NLM_F_REQUEST | NLM_F_ACK, body)])
            payloads, errors, _ = self._collect({sequence})
        _raise_first(errors)
        return payloads

    def change(self, kind: int, body: bytes, *, flags: int = 0) -> None:
        """A changing request. Raises KernelError."""
        _raise_first(self.change_all([(kind, flags, body)]))

    def change_all(self, requests: Sequence[tuple[int, int, bytes]]) -> list[KernelError | None]:
        """Changing requests (kind, flags, body), in batches; for each its KernelError, or None. All are tried."""
        results: list[KernelError | None] = []
        for start in range(0, len(requests), BATCH):
            some = requests[start : start + BATCH]
            with self._lock:
                self.tally.add(len(some))
                last = self._send([(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body) for kind, flags, body in some])
                wanted = {(last - count) & 0xFFFFFFFF for count in range(len(some))}
                _, errors, _ = self._collect(wanted)
            results += [errors.get((last - len(some) + 1 + index) & 0xFFFFFFFF) for index in range(len(some))]
        return results

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Every object of a dump as (family header + attributes). An interrupted dump is taken again (BUSY at last).

        Raises KernelError; EINTR where objects kept changing for ten dumps.
        """
        for _ in range(DUMP_TRIES):
            with self._lock:
                sequence = self._send([(kind, NLM_F_REQUEST | NLM_F_DUMP, body)])
                payloads, errors, interrupted = self._collect({sequence})
            _raise_first(errors)
            if not interrupted:
                return payloads
        raise KernelError(errno.EINTR, f"the dump was interrupted {DUMP_TRIES} times")

    def _send(self, requests: Iterable[tuple[int, int, bytes]]) -> int:
        data = b""
        for kind, flags, body in requests:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            data += _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body
            data += bytes(-len(data) % 4)
        self._socket.send(data)
        return self._sequence

    def _collect(self, wanted: set[int]) -> tuple[list[bytes], dict[int, KernelError], bool]:
        """Read until every sequence number of *wanted* is answered: payloads, refusals by number, interrupted."""
        payloads: list[bytes] = []
        errors: dict[int, KernelError] = {}
        interrupted = False
        while wanted:
            for kind, flags, sequence, payload in _messages(self._socket.recv(RECEIVE_BYTES)):
                if sequence not in wanted:
                    continue  # left over from a call that was interrupted by a signal's exception
                interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    wanted.discard(sequence)
                    if refusal := _refusal(kind, flags, payload):
                        errors[sequence] = refusal
                else:
                    payloads.append(payload)
        return payloads, errors, interrupted


def _open(family: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    opened.bind((0, 0))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
        opened.setsockopt(SOL_NETLINK, option, 1)
    return opened


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _refusal(kind: int, flags: int, payload: bytes) -> KernelError | None:
    code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
    if not code:
        return None
    words = ""
    if flags & NLM_F_ACK_TLVS:
        # An error repeats the request's header (its body is cut off by NETLINK_CAP_ACK); the end of a dump does not.
        words = text_of(parse_attrs(payload, 20 if kind == NLMSG_ERROR else 4).get(NLMSGERR_ATTR_MSG))
    return KernelError(code, words or os.strerror(code))


def _raise_first(errors: dict[int, KernelError] | Iterable[KernelError | None]) -> None:
    for refusal in errors.values() if isinstance(errors, dict) else errors:
        if refusal is not None:
            raise refusal
