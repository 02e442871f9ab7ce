"""Waits until somebody else changes the network: links, IPv4 addresses, routes, rules, tc filters, nftables.

Of each message only the header is read: the watcher says "look", never what is there, so a message that was lost costs
nothing but the name of who was it. Lost messages are told by ENOBUFS (netlink(7)).
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.core.drift import Touch
from agent.kernel.inside import run_inside
from proto.errors import CaasError, Code

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
#: linux/rtnetlink.h: RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE; a group is bit (number - 1).
ROUTE_GROUPS = sum(1 << (group - 1) for group in (1, 4, 5, 7, 8))
#: linux/netfilter/nfnetlink.h: NFNLGRP_NFTABLES.
NFT_GROUPS = 1 << (7 - 1)
#: linux/netfilter/nf_tables.h: each transaction ends with NFNL_SUBSYS_NFTABLES' NFT_MSG_NEWGEN, which says whose it is.
NFT_NEWGEN, NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME = 10 << 8 | 15, 2, 3
#: With a clsact qdisc its filters go, and nobody tells of them. Of other qdiscs' coming and changing we need not hear.
RTM_DELQDISC = 37
#: RTM_NEWLINK is 16, and each kind of object has four messages.
KINDS = {16: "link", 20: "address", 24: "route", 32: "rule", 44: "filter"}
_HEADER = struct.Struct("=IHHII")
_NFGEN, _ATTRIBUTE = 4, struct.Struct("=HH")
SO_RCVBUFFORCE = 33
BUFFER, DATAGRAM = 1 << 20, 1 << 16
#: At most so many datagrams are read at once: who floods us must not keep us from looking.
READS_MAX = 512
#: The part of a port id that is a pid: libnl and pyroute2 have a number above it, a process's first socket has none.
_PID_MASK = (1 << 22) - 1


class Watcher:
    """Of the caller's network namespace, or of *netns*. One thread waits; any may wake it. Raises CaasError."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._own = os.getpid()
        try:
            self._sockets = run_inside(
                netns, lambda: (_open(NETLINK_ROUTE, ROUTE_GROUPS), _open(NETLINK_NETFILTER, NFT_GROUPS))
            )
        except OSError as exc:
            raise CaasError(Code.FAILED, f"watch the network: {exc.strerror}") from exc
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        for each in (*self._sockets, self._alarm):
            self._selector.register(each, selectors.EVENT_READ)

    def wait(self, seconds: float) -> list[Touch]:
        """What others changed, once it is something; empty after *seconds*, when woken, and for what was our own."""
        found: dict[Touch, None] = {}
        for key, _ in self._selector.select(seconds):
            if key.fileobj == self._alarm:
                os.eventfd_read(self._alarm)
                continue
            assert isinstance(key.fileobj, socket.socket)
            found |= dict.fromkeys(self._read(key.fileobj))
        return list(found)

    def wake(self) -> None:
        """End a `wait` under way, or the next one."""
        os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """Nobody waits any more."""
        self._selector.close()
        for each in self._sockets:
            each.close()
        os.close(self._alarm)

    def _read(self, source: socket.socket) -> Iterator[Touch]:
        is_nft = source is self._sockets[1]
        for _ in range(READS_MAX):
            try:
                data = source.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                yield Touch("lost")
                continue
            for kind, payload, port in _messages(data):
                touch = self._read_transaction(kind, payload) if is_nft else self._read_route(kind, payload, port)
                if touch is not None:
                    yield touch

    def _read_route(self, number: int, payload: bytes, port: int) -> Touch | None:
        kind = "filter" if number == RTM_DELQDISC else KINDS.get(number & ~3)
        if kind is None or port & _PID_MASK == self._own:
            return None
        # A bridge tells of its ports' states, each some seconds after it was made. Who joins and leaves, links tell.
        if kind == "link" and payload[:1] == bytes((socket.AF_BRIDGE,)):
            return None
        # Beyond a process's first socket the kernel hands out numbers with the highest bit set, which say nothing.
        return Touch(kind, _describe(port & _PID_MASK) if port and port < 1 << 31 else "")

    def _read_transaction(self, number: int, payload: bytes) -> Touch | None:
        if number != NFT_NEWGEN:
            return None
        told = _attributes(payload[_NFGEN:])
        (pid,) = struct.unpack(">I", told.get(NFTA_GEN_PROC_PID, bytes(4)))
        name = told.get(NFTA_GEN_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
        if self._is_own(pid, name):
            return None
        return Touch("nft", f"{name} (pid {pid})" if name else "")

    def _is_own(self, thread: int, name: str) -> bool:
        """nftables tells the thread, which may have ended: then one of our name is ours."""
        if Path(f"/proc/{thread}").exists():
            return Path(f"/proc/{self._own}/task/{thread}").exists()
        return name == Path("/proc/self/comm").read_text().strip()


def _open(protocol: int, groups: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except PermissionError:  # only with CAP_NET_ADMIN over the machine
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    try:
        made.bind((0, groups))
    except BaseException:
        made.close()
        raise
    return made


def _messages(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Type, payload and port id of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, number, _, _, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield number, data[offset + _HEADER.size : offset + length], port
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _describe(pid: int) -> str:
    """A process by its name where it is still there: one command's may have ended before its message is read."""
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}, which has ended"
