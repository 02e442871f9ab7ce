"""What a NATBox says and asks on its two links, by raw sockets. Sent past tc: natbox_out lets out what has an owner."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.natbox_frames import (
    ANSWER,
    ASK,
    CLAIM,
    ETH_P_ARP,
    ETH_P_NATBOX,
    make_announcement,
    make_control,
    make_probe,
    read_arp_sender,
    read_control,
)

SOL_PACKET, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 263, 20, 23
SO_ATTACH_FILTER, ETH_P_ALL = 26, 3
ASKED_AGAIN = 0.15
#: A link that is down or away says nothing to anybody: no failure of the one that wanted to say something.
_SILENT = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENOBUFS})


class Herald:
    """Trunk and uplink of the namespace *netns* (None: the caller's). Safe for several threads."""

    def __init__(self, *, trunk: str, uplink: str, netns: str | None = None) -> None:
        self._trunk, self._uplink, self._netns = trunk, uplink, netns
        with kernel_errors("open a packet socket"):
            self._socket = run_inside(netns, _open_sender)

    def close(self) -> None:
        """A second time changes nothing."""
        self._socket.close()

    def claim(self, epoch: int, mac: bytes) -> None:
        """Tell every NATBox on the trunk that we are the open one at *epoch*."""
        self._send(self._trunk, [make_control(CLAIM, epoch, mac)])

    def announce_gateways(self, gateways: Iterable[tuple[int, IPv4Address]], mac: bytes) -> None:
        """Tell each VLAN (VID, its gateway's address) that its gateway is at *mac*, the trunk's."""
        self._send(self._trunk, (make_announcement(address, mac, vid=vid) for vid, address in gateways))

    def announce_shared(self, addresses: Iterable[IPv4Address], mac: bytes) -> None:
        """Tell the uplink's segment that *addresses* are at *mac*, the uplink's."""
        self._send(self._uplink, (make_announcement(address, mac) for address in addresses))

    def ask(
        self, shared: Sequence[IPv4Address], *, trunk_mac: bytes, uplink_mac: bytes, seconds: float
    ) -> tuple[str, str]:
        """Who else works: what answered on the trunk, and on the uplink ("" for nobody). Takes at most *seconds*."""
        with contextlib.ExitStack() as sockets, kernel_errors("ask on the trunk and on the uplink"):
            trunk = sockets.enter_context(_listening(self._netns, self._trunk, ETH_P_NATBOX))
            uplink = sockets.enter_context(_listening(self._netns, self._uplink, ETH_P_ARP))
            end, again, found = time.monotonic() + seconds, 0.0, {"trunk": "", "uplink": ""}
            while (now := time.monotonic()) < end and not all(found.values()):
                if now >= again:
                    self._send(self._trunk, [make_control(ASK, 0, trunk_mac)])
                    self._send(self._uplink, [make_probe(address, uplink_mac) for address in shared])
                    again = now + ASKED_AGAIN
                for heard in select.select([trunk, uplink], [], [], min(again, end) - now)[0]:
                    if heard is trunk:
                        found["trunk"] = found["trunk"] or _answer(trunk.recv(2048))
                    else:
                        found["uplink"] = found["uplink"] or _owner(uplink.recv(2048), shared)
        return found["trunk"], found["uplink"]

    def _send(self, link: str, frames: Iterable[bytes]) -> None:
        with kernel_errors(f"send on {link}"):
            for frame in frames:
                try:
                    self._socket.sendto(frame, (link, 0))
                except OSError as exc:
                    if exc.errno not in _SILENT:
                        raise


def _answer(frame: bytes) -> str:
    read = read_control(frame)
    return f"a NATBox at epoch {read[1]}, MAC {frame[6:12].hex(':')}" if read and read[0] == ANSWER else ""


def _owner(frame: bytes, shared: Sequence[IPv4Address]) -> str:
    read = read_arp_sender(frame)
    return f"{read[0]}, MAC {read[1].hex(':')}" if read and read[0] in shared else ""


def _open_sender() -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    opened.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    return opened


@contextlib.contextmanager
def _listening(netns: str | None, link: str, protocol: int) -> Iterator[socket.socket]:
    """A tap on *link* that passes untagged frames of *protocol*.

    Of every protocol to the kernel, and filtered: only such a tap hears what natbox_in drops (packet(7), tc(8)).
    """

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in ((0x28, 0, 0, 12), (0x15, 0, 1, protocol), (0x6, 0, 0, 0xFFFF), (0x6, 0, 0, 0))
        )  # ldh [12]; jeq protocol; ret all; ret nothing (linux/filter.h)
        kept = ctypes.create_string_buffer(program)
        opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 4, ctypes.addressof(kept)))
        opened.bind((link, ETH_P_ALL))
        return opened

    opened = run_inside(netns, open_socket)
    try:
        yield opened
    finally:
        opened.close()
