"""Frames that NATBoxes make themselves: what they say to each other, and ARP's announcements and probes. Pure."""

from __future__ import annotations

import ipaddress
import struct

#: IEEE 802, local experimental EtherType 1; agent/kernel/bpf/natbox.bpf.c has the same numbers.
ETH_P_NATBOX, ETH_P_ARP, ETH_P_8021Q = 0x88B5, 0x0806, 0x8100
MAGIC = 0x63616173
CLAIM, ASK, ANSWER = 1, 2, 3
#: A group of nobody else's (locally administered): switches flood it, cards that filter pass it only on request.
GROUP = bytes.fromhex("03caa5000002")
BROADCAST = b"\xff" * 6
NOBODY = bytes(6)
FRAME_MIN = 60
_CONTROL = struct.Struct("!6s6sHIHHQ")
_ETHERNET = struct.Struct("!6s6sH")
_TAG = struct.Struct("!HH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_REQUEST, _REPLY = 1, 2


def make_control(kind: int, epoch: int, mac: bytes) -> bytes:
    """A frame of *kind* (CLAIM, ASK) from *mac* to every NATBox on the trunk."""
    return _pad(_CONTROL.pack(GROUP, mac, ETH_P_NATBOX, MAGIC, kind, 0, epoch))


def read_control(frame: bytes) -> tuple[int, int] | None:
    """Kind and epoch; None where it is none of ours."""
    if len(frame) < _CONTROL.size:
        return None
    _, _, protocol, magic, kind, _, epoch = _CONTROL.unpack_from(frame)
    return (kind, epoch) if (protocol, magic) == (ETH_P_NATBOX, MAGIC) else None


def make_announcement(address: ipaddress.IPv4Address, mac: bytes, *, vid: int = 0) -> bytes:
    """ "*address* is at *mac*", for everybody (RFC 5227, section 2.3). Tagged where *vid* is not 0."""
    return _make_arp(mac, sender=address.packed, target=address.packed, vid=vid)


def make_probe(address: ipaddress.IPv4Address, mac: bytes) -> bytes:
    """ "Has anybody *address*?" without claiming it (RFC 5227, section 2.1.1)."""
    return _make_arp(mac, sender=bytes(4), target=address.packed, vid=0)


def read_arp_sender(frame: bytes) -> tuple[ipaddress.IPv4Address, bytes] | None:
    """Address and MAC of whoever sent an untagged ARP frame; None for a probe, and for what is no ARP."""
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    protocol = _ETHERNET.unpack_from(frame)[2]
    hardware, kind, _, _, _, mac, sender, _, _ = _ARP.unpack_from(frame, _ETHERNET.size)
    if (protocol, hardware, kind) != (ETH_P_ARP, 1, 0x0800) or sender == bytes(4):
        return None
    return ipaddress.IPv4Address(sender), mac


def _make_arp(mac: bytes, *, sender: bytes, target: bytes, vid: int) -> bytes:
    tag = _TAG.pack(ETH_P_8021Q, vid) if vid else b""
    arp = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, sender, NOBODY, target)
    return _pad(BROADCAST + mac + tag + ETH_P_ARP.to_bytes(2, "big") + arp)


def _pad(frame: bytes) -> bytes:
    return frame.ljust(FRAME_MIN, b"\0")
