"""The outer header that a route gives its packets (linux/lwtunnel.h): pyroute2 has no words for that of IPv4."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address

from agent.kernel.links import TUNNEL_TTL
from agent.kernel.netlink import Message

LWTUNNEL_ENCAP_IP = 2
LWTUNNEL_IP_DST, LWTUNNEL_IP_SRC, LWTUNNEL_IP_TTL, LWTUNNEL_IP_FLAGS = 2, 3, 4, 6
TUNNEL_DONT_FRAGMENT = 0x0100  # linux/if_tunnel.h
_HEAD = struct.Struct("=HH")


def make_encap(remote: IPv4Address | None, *, src: IPv4Address | None) -> Mapping[str, object]:
    """The attributes of a route whose packets go to *remote*: its ends, its hops, and that it may not be cut."""
    if remote is None:
        return {}
    attributes = [(LWTUNNEL_IP_DST, remote.packed)]
    if src is not None:
        attributes.append((LWTUNNEL_IP_SRC, src.packed))
    attributes.append((LWTUNNEL_IP_TTL, bytes((TUNNEL_TTL,))))
    attributes.append((LWTUNNEL_IP_FLAGS, struct.pack("!H", TUNNEL_DONT_FRAGMENT)))
    packed = b"".join(_HEAD.pack(_HEAD.size + len(value), kind) + _pad(value) for kind, value in attributes)
    return {"encap_type": LWTUNNEL_ENCAP_IP, "encap": packed}


def read_encap(message: Message) -> IPv4Address | None:
    """Where a route's packets go in an outer header of IPv4; None where it gives them none."""
    if message.get_attr("RTA_ENCAP_TYPE") != LWTUNNEL_ENCAP_IP:
        return None
    packed = bytes.fromhex(message.get_attr("RTA_ENCAP").replace(":", ""))
    while len(packed) >= _HEAD.size:
        length, kind = _HEAD.unpack_from(packed)
        if kind == LWTUNNEL_IP_DST:
            return IPv4Address(packed[_HEAD.size : length])
        packed = packed[_HEAD.size + len(_pad(packed[_HEAD.size : length])) :]
    return None


def _pad(value: bytes) -> bytes:
    return value.ljust(-(-len(value) // 4) * 4, b"\0")
