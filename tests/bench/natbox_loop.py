"""`python -m tests.bench.natbox_loop TRUNK UPLINK VID SOURCE NEXT_MAC`: NATBox's out-bound way as a loop in Python.

To show why NATBox is not one: strip the tag, put *SOURCE* in the place of the sender's address, mend the sums, send.
Says "ready" when it listens; ends by a signal.
"""

from __future__ import annotations

import socket
import struct
import sys

SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 8, 23, 3
VLAN_VALID, VID_MASK = 1 << 4, 0xFFF
UDP, UDP_CHECK_AT, IP_CHECK_AT = 17, 40, 24
_AUXDATA = struct.Struct("=IIIHHHH")


def open_link(link: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.bind((link, ETH_P_ALL))
    return opened


def mend(sum_before: int, before: bytes, after: bytes) -> int:
    """RFC 1624, equation 3."""
    total = ~sum_before & 0xFFFF
    for old, new in zip(struct.unpack("!2H", before), struct.unpack("!2H", after), strict=True):
        total += (~old & 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forward(frame: bytearray, source: bytes, head: bytes) -> None:
    """Make *frame*, without its tag, into what leaves."""
    before = bytes(frame[26:30])
    frame[0:12] = head
    frame[26:30] = source
    (old,) = struct.unpack_from("!H", frame, IP_CHECK_AT)
    struct.pack_into("!H", frame, IP_CHECK_AT, mend(old, before, source))
    (old,) = struct.unpack_from("!H", frame, UDP_CHECK_AT)
    if frame[23] == UDP and old:
        struct.pack_into("!H", frame, UDP_CHECK_AT, mend(old, before, source) or 0xFFFF)


def main(trunk: str, uplink: str, vid: int, source: bytes, next_mac: bytes) -> None:
    inside, outside = open_link(trunk), open_link(uplink)
    head = next_mac + outside.getsockname()[4]
    print("ready", flush=True)
    while True:
        data, ancillary, _, _ = inside.recvmsg(2048, 256)
        for level, kind, value in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(value)
                if status & VLAN_VALID and tci & VID_MASK == vid and data[12:14] == b"\x08\x00":
                    frame = bytearray(data)
                    forward(frame, source, head)
                    outside.send(frame)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), socket.inet_aton(sys.argv[4]), bytes.fromhex(sys.argv[5]))
