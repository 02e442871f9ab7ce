"""`python -m coordinator.lab.capture LINK`: the pings that pass a link, one JSON object in a line for each.

To be run inside a namespace. The kernel takes the outer VLAN tag out of every frame before a program sees it, and
shows it only in the packet's auxiliary data (packet(7), PACKET_AUXDATA): a capture that does not ask for that finds
every frame untagged. Writes "ready" first; ends when it is ended.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import sys
from dataclasses import asdict, dataclass

ETH_P_ALL = 0x0003  # linux/if_ether.h
ETH_P_IP = 0x0800
ETH_P_8021Q = 0x8100
SOL_PACKET, PACKET_AUXDATA = 263, 8  # linux/socket.h, linux/if_packet.h
TP_STATUS_VLAN_VALID = 0x10
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_VID = 0x0FFF
_ICMP = 1
_ECHO = {8: "request", 0: "reply"}  # RFC 792


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """An echo request or reply: its VID (None: no tag), its addresses, and which of the two it is."""

    vid: int | None
    source: str
    destination: str
    kind: str
    outgoing: bool


def parse_ping(frame: bytes, ancillary: list[tuple[int, int, bytes]], *, outgoing: bool) -> Ping | None:
    """The ping in *frame* as a raw socket gave it with its auxiliary data; None where it is something else."""
    vid = _outer_vid(ancillary)
    kind, payload = struct.unpack_from("!H", frame, 12)[0], frame[14:]
    if kind == ETH_P_8021Q and vid is None:  # what this machine itself sends may still have its tag inline
        tci, kind = struct.unpack_from("!HH", payload)
        vid, payload = tci & _VID, payload[4:]
    if kind != ETH_P_IP or len(payload) < 20 or payload[9] != _ICMP:
        return None
    header = (payload[0] & 0x0F) * 4
    if len(payload) <= header or payload[header] not in _ECHO:
        return None
    source, destination = (str(ipaddress.IPv4Address(payload[at : at + 4])) for at in (12, 16))
    return Ping(vid=vid, source=source, destination=destination, kind=_ECHO[payload[header]], outgoing=outgoing)


def capture(link: str) -> None:
    """Print the pings on *link* until the process is ended."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as opened:
        opened.bind((link, 0))
        opened.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        print("ready", flush=True)
        while True:
            frame, ancillary, _, address = opened.recvmsg(65536, 256)
            ping = parse_ping(frame, ancillary, outgoing=address[2] == socket.PACKET_OUTGOING)
            if ping is not None:
                print(json.dumps(asdict(ping)), flush=True)


def _outer_vid(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(data)
            return int(tci) & _VID if status & TP_STATUS_VLAN_VALID else None
    return None


if __name__ == "__main__":
    capture(sys.argv[1])
