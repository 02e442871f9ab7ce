"""What leaves and enters a host tagged, or in an ipip or vxlan tunnel, whichever realisation makes it.

A packet socket sees what is received before tc and nft, and what is sent after them (packet(7)). So what was sent here
and not received there was lost between the two hosts. Only ARP and ICMP are looked at.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Any

SO_ATTACH_FILTER, SO_RCVBUFFORCE, SOL_PACKET, PACKET_AUXDATA = 26, 33, 263, 8
ETH_P_ALL, PACKET_OUTGOING, ARPHRD_ETHER = 0x0003, 4, 1
TP_STATUS_VLAN_VALID = 0x10
BUFFER = 8 << 20
SNAP = 96
IPV4 = b"\x08\0"
VXLAN_PORT = 4789
#: Where the inner IPv4 header begins, by the outer header's protocol: RFC 2003, RFC 7348.
_INNER = {socket.IPPROTO_IPIP: 34, socket.IPPROTO_UDP: 64}
_AUXDATA = struct.Struct("=IIIHHHH")
_VLAN_PRESENT = 0xFFFFF000 + 48  # linux/filter.h: SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_LDW, _LDH, _LDB, _JEQ, _RET = 0x20, 0x28, 0x30, 0x15, 0x06
_ACCEPT, _DROP = 24, 25
#: code, what it compares or loads, next where equal, next where not (absolute).
_PROGRAM = (
    (_LDW, _VLAN_PRESENT, 0, 0),
    (_JEQ, 1, 14, 2),
    (_LDH, 12, 0, 0),
    (_JEQ, 0x8100, 19, 4),
    (_JEQ, 0x0800, 5, _DROP),
    (_LDB, 23, 0, 0),
    (_JEQ, socket.IPPROTO_IPIP, 7, 9),
    (_LDB, 43, 0, 0),  # the inner header's protocol
    (_JEQ, socket.IPPROTO_ICMP, _ACCEPT, _DROP),
    (_JEQ, socket.IPPROTO_UDP, 10, _DROP),
    (_LDH, 36, 0, 0),
    (_JEQ, VXLAN_PORT, 12, _DROP),
    (_LDB, 73, 0, 0),
    (_JEQ, socket.IPPROTO_ICMP, _ACCEPT, _DROP),
    (_LDH, 12, 0, 0),  # tagged, the tag beside the frame
    (_JEQ, 0x0806, _ACCEPT, 16),
    (_JEQ, 0x0800, 17, _DROP),
    (_LDB, 23, 0, 0),
    (_JEQ, socket.IPPROTO_ICMP, _ACCEPT, _DROP),
    (_LDH, 16, 0, 0),  # tagged, the tag in the frame
    (_JEQ, 0x0806, _ACCEPT, 21),
    (_JEQ, 0x0800, 22, _DROP),
    (_LDB, 27, 0, 0),
    (_JEQ, socket.IPPROTO_ICMP, _ACCEPT, _DROP),
    (_RET, SNAP, 0, 0),
    (_RET, 0, 0, 0),
)
#: Of all ARP only what says whose an address is: each who asks is heard by everybody.
ARP_REPLIES = ((_LDH, 20, 0, 0), (_JEQ, 2, 2, 3), (_RET, SNAP, 0, 0), (_RET, 0, 0, 0))


def attach_filter(opened: socket.socket, instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Let *opened* see only what classic BPF *instructions* accept (linux/filter.h; jumps are absolute here)."""
    packed = b"".join(
        struct.pack("=HBBI", code, equal - at - 1, other - at - 1, value)
        if code == _JEQ
        else struct.pack("=HBBI", code, 0, 0, value)
        for at, (code, value, equal, other) in enumerate(instructions)
    )
    program = ctypes.create_string_buffer(packed)
    head = struct.pack("HL", len(instructions), ctypes.addressof(program))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)


class Tap:
    """Counts in the namespace that it is made in. Not safe for several threads."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        attach_filter(self.socket, _PROGRAM)
        #: (outer source, outer destination, inner source, inner destination, ICMP type) -> packets sent, received, and
        #: the largest sent, received
        self._outer: dict[tuple[bytes, bytes, bytes, bytes, int], list[int]] = {}
        #: (link, VID, source MAC) -> sent, received
        self._tagged: dict[tuple[str, int, bytes], list[int]] = {}

    def take(self) -> None:
        """Everything that has passed."""
        while True:
            try:
                frame, extra, _, (link, _, packet_type, arp_type, _) = self.socket.recvmsg(SNAP, 64)
            except (BlockingIOError, OSError):
                return
            if arp_type == ARPHRD_ETHER:
                self._count(frame, _vid(frame, extra), link, int(packet_type != PACKET_OUTGOING))

    def _count(self, frame: bytes, vid: int, link: str, received: int) -> None:
        if vid:
            self._tagged.setdefault((link, vid, frame[6:12]), [0, 0])[received] += 1
        elif len(frame) > 84 and frame[12:14] == IPV4 and (inner := _INNER.get(frame[23])):
            if inner == _INNER[socket.IPPROTO_UDP] and int.from_bytes(frame[36:38], "big") != VXLAN_PORT:
                return  # one of the few that came before the filter was there
            source, target = frame[inner + 12 : inner + 16], frame[inner + 16 : inner + 20]
            key = (frame[26:30], frame[30:34], source, target, frame[inner + 20])
            seen = self._outer.setdefault(key, [0, 0, 0, 0])
            seen[received] += 1
            seen[2 + received] = max(seen[2 + received], int.from_bytes(frame[16:18], "big"))

    def report(self) -> dict[str, Any]:
        """{"outer": [...], "tagged": [...]} as agent.core.doors.Burst has them."""
        text = socket.inet_ntoa
        return {
            "outer": [[*map(text, ends), kind, *seen] for (*ends, kind), seen in self._outer.items()],
            "tagged": [[link, vid, mac.hex(":"), *seen] for (link, vid, mac), seen in self._tagged.items()],
        }


def _vid(frame: bytes, extra: list[tuple[int, int, bytes]]) -> int:
    """The outermost tag's VID; 0 where there is none."""
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tag, _ = _AUXDATA.unpack_from(data)
            if status & TP_STATUS_VLAN_VALID:
                return int(tag) & 0xFFF
    return int.from_bytes(frame[14:16], "big") & 0xFFF if frame[12:14] == b"\x81\0" else 0
