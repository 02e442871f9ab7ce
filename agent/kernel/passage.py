"""Which packets pass between this host and others: tried with packets of each kind that no tunnel takes.

All hosts try at once. Each sends to each of the others, over and over, and hears them: what was heard says so in turn,
and who knows that all was heard on both sides has done. A packet is of protocol 4 with an inner header of version 0, or
of VXLAN's port without a valid VNI (RFC 7348, section 5: to be ignored on receipt), so it changes nothing wherever it
ends. Raw sockets hear what the host's own filters let in, also where a tunnel stands.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address

from agent.core.doors import Passage, Search
from agent.kernel import layer3
from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.links import IPPROTO_IPIP, VXLAN_PORT
from agent.kernel.netlink import Netlink

#: Seconds from the first packet to a far end to the second; each next one waits longer by a half.
INTERVAL, SLOWER = 0.05, 1.5
COOKIE = b"caas"
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_HEARD, _NOT_HEARD = b"\1", b"\0"
_UDP = struct.Struct("!HHHH")
#: By method: protocol, and what a packet has in front of the cookie.
_KINDS = {"ipip": (IPPROTO_IPIP, b"\0" * 4), "vxlan": (socket.IPPROTO_UDP, b"\0" * 8)}
#: One kind of packet to one far end.
_Try = tuple[str, IPv4Address]


def find_passages(connection: Netlink, search: Search) -> dict[IPv4Address, Passage]:
    """What of *search* is on a link of this host, and what was heard of it in `search.seconds` at most."""
    on_link = {far: _is_on_link(connection, far, search.local) for far in search.fars}
    heard: set[_Try] = set()
    if any(search.fars.values()):
        with kernel_errors(f"listen at {search.local} for what passes"), ExitStack() as stack:
            sockets = run_inside(
                connection.netns, lambda: {each: stack.enter_context(_open(each, search.local)) for each in _KINDS}
            )
            heard = _Exchange(sockets, search).run()
    return {
        far: Passage(on_link=on_link[far], heard=tuple(sorted(method for method, end in heard if end == far)))
        for far in search.fars
    }


def _is_on_link(connection: Netlink, far: IPv4Address, local: IPv4Address) -> bool:
    index, hop = layer3.find_way(connection, far, src=local)
    return bool(index) and hop is None


class _Exchange:
    """One run over open sockets."""

    def __init__(self, sockets: Mapping[str, socket.socket], search: Search) -> None:
        self._sockets = sockets
        self._search = search
        self._wanted = {(method, far) for far, methods in search.fars.items() for method in methods}
        self._heard: set[_Try] = set()
        #: What the others say that they have heard.
        self._known: set[_Try] = set()

    def run(self) -> set[_Try]:
        """Returns what was heard."""
        end = time.monotonic() + self._search.seconds
        pause = INTERVAL
        while (now := time.monotonic()) < end and not self._is_done():
            for each in self._wanted:
                if each not in self._heard or each not in self._known:
                    self._send(each)
            self._listen(min(now + pause, end))
            pause *= SLOWER
        for each in self._heard:  # the last answer may have been lost
            self._send(each)
        return self._heard

    def _is_done(self) -> bool:
        return self._wanted <= self._heard and self._wanted <= self._known

    def _listen(self, until: float) -> None:
        while not self._is_done() and (left := until - time.monotonic()) > 0:
            ready = select.select(list(self._sockets.values()), (), (), left)[0]
            for method, opened in self._sockets.items():
                if opened in ready:
                    for far, knows in _receive(opened, method, self._search.nonce):
                        self._note((method, far), knows=knows)

    def _note(self, one: _Try, *, knows: bool) -> None:
        if one not in self._wanted:
            return
        self._heard.add(one)
        if knows:
            self._known.add(one)
        else:
            self._send(one)

    def _send(self, one: _Try) -> None:
        method, far = one
        data = _KINDS[method][1] + COOKIE + self._search.nonce + (_HEARD if one in self._heard else _NOT_HEARD)
        if method == "vxlan":
            data = _UDP.pack(VXLAN_PORT, VXLAN_PORT, _UDP.size + len(data), 0) + data
        with contextlib.suppress(OSError):  # no way there now, or a filter of our own: it does not pass
            self._sockets[method].sendto(data, (str(far), 0))


def _receive(opened: socket.socket, method: str, nonce: bytes) -> Iterator[tuple[IPv4Address, bool]]:
    """The far ends whose packets are there, and whether they have heard us."""
    while True:
        try:
            packet = opened.recv(256)
        except BlockingIOError:
            return
        start = 4 * (packet[0] & 15) + _offset(method)
        if packet[start : start + len(COOKIE) + len(nonce)] == COOKIE + nonce:
            yield IPv4Address(packet[12:16]), packet[start + len(COOKIE) + len(nonce) :][:1] == _HEARD


def _offset(method: str) -> int:
    """Where the cookie is after the IP header."""
    return len(_KINDS[method][1]) + (_UDP.size if method == "vxlan" else 0)


def _open(method: str, local: IPv4Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, _KINDS[method][0])
    try:
        # The host's other packets of that protocol must not fill the socket's room.
        _attach(opened, _offset(method))
        opened.setblocking(False)
        opened.bind((str(local), 0))
    except BaseException:
        opened.close()
        raise
    return opened


def _attach(opened: socket.socket, offset: int) -> None:
    """Let only packets with the cookie there in (socket(7), linux/filter.h)."""
    program: Sequence[tuple[int, int, int, int]] = (
        (0xB1, 0, 0, 0),  # x = length of the IP header
        (0x40, 0, 0, offset),  # a = the word at x + offset
        (0x15, 0, 1, int.from_bytes(COOKIE)),  # is it?
        (0x06, 0, 0, 0xFFFF),  # take it
        (0x06, 0, 0, 0),
    )
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    room = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(room)))
