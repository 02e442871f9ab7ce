"""Netfilter's netlink, by bytes: for what nft and conntrack keep by the thousand, where reading it whole is too slow.

Messages are linux/netlink.h's and linux/netfilter/nfnetlink.h's: attributes of a header and a value padded to 4 bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

from agent.kernel.inside import run_inside
from agent.kernel.netlink import DUMP_TRIES, KernelError

NETLINK_NETFILTER, FAMILY_IPV4 = 12, 2
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REQUEST, ACK, DUMP, CREATE, INTERRUPTED = 0x1, 0x4, 0x300, 0x400, 0x10
_KIND_ERROR, _KIND_DONE, _NESTED = 2, 3, 0x8000
_HEADER, _NFGEN, _ATTRIBUTE, _ERROR = (
    struct.Struct("=IHHII"),
    struct.Struct("!BBH"),
    struct.Struct("=HH"),
    struct.Struct("=i"),
)
_ROOM = 1 << 17


class NfNetlink:
    """One subsystem (linux/netfilter/nfnetlink.h) in the namespace *netns* (None: the caller's).

    Safe for several threads, one call at a time. A refusal is a KernelError with the kernel's errno.
    """

    def __init__(self, subsystem: int, *, netns: str | None = None) -> None:
        self._subsystem = subsystem
        self._lock = threading.Lock()
        self._socket = run_inside(netns, _open)

    def close(self) -> None:
        """A second time changes nothing."""
        self._socket.close()

    def ask(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of the answers to one request."""
        with self._lock:
            return self._exchange(self._message(kind, REQUEST, body), is_dump=False)

    def tell(self, kind: int, body: bytes) -> None:
        """A request that is only carried out."""
        with self._lock:
            self._exchange(self._message(kind, REQUEST | ACK, body), is_dump=False)

    def tell_together(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        """Kind, further flags and body of each: all in one transaction, or none."""
        parts = [self._message(kind, REQUEST | ACK | flags, body) for kind, flags, body in requests]
        with self._lock:
            self._exchange(b"".join((self._mark(BATCH_BEGIN), *parts, self._mark(BATCH_END))), is_dump=False)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all messages. EINTR where objects kept changing for ten dumps."""
        with self._lock:
            for _ in range(DUMP_TRIES):
                try:
                    return self._exchange(self._message(kind, REQUEST | DUMP, body), is_dump=True)
                except KernelError as exc:
                    if exc.errno != errno.EINTR:
                        raise
        raise KernelError(errno.EINTR, f"the dump was interrupted {DUMP_TRIES} times")

    def _exchange(self, request: bytes, *, is_dump: bool) -> list[bytes]:
        """Everything is read before the first refusal is raised.

        The kernel has answered when send() returns, so that there is nothing to wait for; a dump ends with DONE.
        """
        self._socket.send(request)
        bodies: list[bytes] = []
        refusal = 0
        ended = False
        while not ended:
            try:
                data = self._socket.recv(_ROOM, 0 if is_dump else socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, flags, body in _messages(data):
                if flags & INTERRUPTED:
                    refusal = refusal or errno.EINTR
                if kind in (_KIND_ERROR, _KIND_DONE):
                    refusal = refusal or (-_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0)
                    ended = is_dump
                else:
                    bodies.append(body[_NFGEN.size :])
        if refusal:
            raise KernelError(refusal, os.strerror(refusal))
        return bodies

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        payload = _NFGEN.pack(FAMILY_IPV4, 0, 0) + body
        return _HEADER.pack(_HEADER.size + len(payload), self._subsystem << 8 | kind, flags, 0, 0) + payload

    def _mark(self, kind: int) -> bytes:
        size = _HEADER.size + _NFGEN.size
        return _HEADER.pack(size, kind, REQUEST, 0, 0) + _NFGEN.pack(0, 0, self._subsystem)


def make_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def make_nested(kind: int, *parts: bytes) -> bytes:
    return make_attribute(kind | _NESTED, b"".join(parts))


def make_string(text: str) -> bytes:
    return text.encode() + b"\0"


def read_string(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def read_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each, without the flags."""
    at, end = 0, len(data)
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and body of each."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    opened.bind((0, 0))
    return opened
