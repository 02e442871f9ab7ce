"""`python -m tests.support.tagged FROM TO LINK VID`: send a tagged frame between namespaces; print what came.

Raw sockets (packet(7)): the kernel takes the outer tag out of received frames and shows it only in PACKET_AUXDATA.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import time

ETH_P_ALL = 0x0003
ETH_P_8021Q = 0x8100
ETH_P_EXPERIMENT = 0x88B5  # IEEE 802: local experimental EtherType 1
SOL_PACKET, PACKET_AUXDATA = 263, 8
TP_STATUS_VLAN_VALID = 0x10
_AUXDATA = struct.Struct("IIIHHHH")  # tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_CLONE_NEWNET = 0x40000000


def open_in(namespace: str, link: str) -> socket.socket:
    """A raw socket on *link* of *namespace*; this process stays in the last namespace that was asked for."""
    with open(f"/run/netns/{namespace}") as descriptor:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.bind((link, 0))
    return opened


def received_vid(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The VID of a received frame; None where it had no tag."""
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, _ = _AUXDATA.unpack(data[: _AUXDATA.size])
            return int(tci & 0x0FFF) if status & TP_STATUS_VLAN_VALID else None
    raise AssertionError("no auxiliary data: was PACKET_AUXDATA set?")


def main(source: str, target: str, link: str, vid: int) -> None:
    with open_in(source, link) as sender, open_in(target, link) as receiver:
        receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        receiver.settimeout(5)
        head = b"\xff" * 6 + bytes.fromhex("020000000001") + struct.pack("!HHH", ETH_P_8021Q, vid, ETH_P_EXPERIMENT)
        payload = b"from host1"
        sender.send(head + payload + bytes(50))
        end = time.monotonic() + 5
        while time.monotonic() < end:
            frame, ancillary, _, _ = receiver.recvmsg(2048, 256)
            if frame[12:14] == struct.pack("!H", ETH_P_EXPERIMENT):
                print(json.dumps({"vid": received_vid(ancillary), "payload": frame[14 : 14 + len(payload)].decode()}))
                return
    raise SystemExit(f"nothing came to {target} ({os.getpid()})")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
