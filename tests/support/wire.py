"""Frames as they are on a link: raw sockets with auxdata, where a received frame has its outer tag (packet(7))."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING = 263, 8, 23
VLAN_VALID, TPID_VALID = 1 << 4, 1 << 6
ETH_P_ALL = 3
CLONE_NEWNET = 0x40000000
_AUXDATA = struct.Struct("=IIIHHHH")
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """A received frame: every tag (TPID, TCI) from the outermost on, and the Ethernet frame without the outer one."""

    tags: tuple[tuple[int, int], ...]
    data: bytes
    outgoing: bool = False

    @property
    def payload(self) -> bytes:
        """What follows the last tag's EtherType."""
        return self.data[14 + 4 * (len(self.tags) - self._outside) :]

    @property
    def ethertype(self) -> int:
        at = 12 + 4 * (len(self.tags) - self._outside)
        return int.from_bytes(self.data[at : at + 2], "big")

    @property
    def _outside(self) -> int:
        inline = int.from_bytes(self.data[12:14], "big") in TPIDS
        return len(self.tags) - _inline_tags(self.data) if inline else len(self.tags)

    @property
    def destination(self) -> str:
        return self.data[:6].hex(":")

    @property
    def source(self) -> str:
        return self.data[6:12].hex(":")


TPIDS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)


def _inline_tags(data: bytes) -> int:
    count = 0
    while int.from_bytes(data[12 + 4 * count : 14 + 4 * count], "big") in TPIDS:
        count += 1
    return count


def inside(netns: str, function: Callable[[], T]) -> T:
    """*function()* in a thread of its own that has entered the namespace."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            with open(f"/run/netns/{netns}") as handle:
                if _libc.setns(handle.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            results.append(function())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


class Tap:
    """A raw socket on *link* of *netns*: sends bytes as they are, receives frames with their tags."""

    def __init__(self, netns: str, link: str, *, own: bool = False) -> None:
        def open_socket() -> socket.socket:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            opened.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            if not own:
                opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            opened.bind((link, ETH_P_ALL))
            return opened

        self.socket = inside(netns, open_socket)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def receive(self, timeout: float) -> Frame | None:
        """The next frame, or None when none comes within *timeout* seconds."""
        if not select.select([self.socket], [], [], timeout)[0]:
            return None
        data, ancillary, _, address = self.socket.recvmsg(1 << 16, 256)
        tags: list[tuple[int, int]] = []
        for level, kind, value in ancillary:
            if level == SOL_PACKET and kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(value)
                if status & VLAN_VALID:
                    tags.append((tpid if status & TPID_VALID else 0x8100, tci))
        for index in range(_inline_tags(data)):
            at = 12 + 4 * index
            tags.append((int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")))
        return Frame(tuple(tags), data, outgoing=address[2] == socket.PACKET_OUTGOING)

    def collect(self, wanted: Callable[[Frame], bool], *, count: int = 1, timeout: float = 2.0) -> list[Frame]:
        """Frames that are *wanted*, until there are *count* or the time is over."""
        found: list[Frame] = []
        deadline = time.monotonic() + timeout
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            frame = self.receive(left)
            if frame is not None and wanted(frame):
                found.append(frame)
        return found

    def drain(self) -> list[Frame]:
        """What has arrived so far."""
        found = []
        while (frame := self.receive(0)) is not None:
            found.append(frame)
        return found
