"""What NATBox's BPF maps hold, byte for byte: the twin of bpf/natbox.bpf.c. Pure; a test compares the two.

Numbers are in the machine's byte order, addresses in the network's.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proto.errors import CaasError, Code
from proto.marks import Mark, parse_mark
from proto.model import Gateway, Neighbour

#: With the VID: what natbox_in writes into the mark of a packet, and nft into that of the connection that it begins.
MARK_OUT = 0xCA000000
#: With the VID: in the mark of a connection that began outside, at something that the VLAN publishes.
MARK_IN = 0xCB000000
#: With the VID of the one that began it: in that of a connection from a VLAN to something that is published.
MARK_ACROSS = 0xCC000000
#: Where a container of any VLAN has its address as far as the stack knows: INNER | VID << 16 | its low 16 bits.
INNER = ipaddress.IPv4Network("240.0.0.0/4")
INNER_VID_SHIFT = 16
#: A subnet may not be larger than what the low 16 bits tell apart.
PREFIX_MIN = 16
#: What the stack calls itself towards VLANs; natbox_out replaces it by the gateway's address. VID 0 is nobody's.
STACK_ADDRESS = ipaddress.IPv4Address("240.0.0.1")
MARK_TEXT_MAX = 111  # a NUL follows
REASONS = (
    "untagged",
    "tag is not 802.1Q",
    "VID 0 or 4095",
    "VID of no cluster",
    "second tag",
    "EtherType",
    "malformed",
    "IP options",
    "MAC not ours",
    "spoofed source",
    "spoofed ARP",
    "ARP not for us",
    "to the gateway itself",
    "to its own subnet",
    "to another VLAN",
    "not unicast",
    "no owner",
    "no such neighbour",
    "not IPv4",
    "kernel refused",
    "NATBox is the standby",
)
#: Not worth an alarm: every broadcast of a VLAN arrives here too.
ORDINARY_REASONS = frozenset({"MAC not ours", "ARP not for us", "NATBox is the standby"})

_VID = struct.Struct("=I")
_VLAN = struct.Struct("=4s4s6sBx112s")
_NEIGHBOUR_KEY = struct.Struct("=I4s")
_NEIGHBOUR = struct.Struct("=6sxx")
_SUBNET_KEY = struct.Struct("=I4s")
_TRAFFIC = struct.Struct("=4Q")
_DROPS = struct.Struct("=32Q")
USED = _VID.pack(1)
MAPS = (
    ("nb_vlans", _VID.size, _VLAN.size),
    ("nb_neighbours", _NEIGHBOUR_KEY.size, _NEIGHBOUR.size),
    ("nb_subnets", _SUBNET_KEY.size, _VID.size),
    ("nb_drops", _VID.size, _DROPS.size),
)
NO_DROPS = bytes(_DROPS.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class VlanEntry:
    """One entry of nb_vlans. Nothing passes while it is not open."""

    vid: int
    gateway: ipaddress.IPv4Interface
    mac: str
    open: bool
    owner: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenGateway:
    """A VLAN as the maps have it. Not intact: half made or half removed, or for a trunk with another MAC."""

    gateway: Gateway
    intact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What NATBox's machine has itself: its addresses, and where somebody listens on the uplink's ("tcp", 22)."""

    addresses: frozenset[ipaddress.IPv4Address] = frozenset()
    listening: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPath:
    """The shared path as the kernel has it: titles of the pieces of which there is something to remove (a setting that
    is to be put back), and of those that are not as wanted."""

    there: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at the path and at some VLANs, these by VID."""

    path: SeenPath
    vlans: Mapping[int, SeenGateway]


def make_inner_subnet(vid: int) -> ipaddress.IPv4Network:
    """Where the stack sees the containers of the VLAN."""
    return ipaddress.IPv4Network((int(INNER.network_address) | vid << INNER_VID_SHIFT, PREFIX_MIN))


def read_inner_vid(address: ipaddress.IPv4Address) -> int:
    """The VLAN of a container that the stack sees at *address*."""
    return int(address) >> INNER_VID_SHIFT & 0xFFF


def make_vid_key(vid: int) -> bytes:
    return _VID.pack(vid)


def read_vid_key(key: bytes) -> int:
    return int(_VID.unpack(key)[0])


def make_vlan_entry(gateway: Gateway, *, mac: str, is_open: bool) -> bytes:
    """The value of *gateway* in nb_vlans. INVALID where its owner's name is too long to be kept there."""
    text = str(Mark(gateway.cluster, gateway.network)).encode()
    if len(text) > MARK_TEXT_MAX:
        raise CaasError(Code.INVALID, f"gateway {gateway.name}: the name is longer than {MARK_TEXT_MAX} bytes")
    return _VLAN.pack(
        gateway.gateway.ip.packed, gateway.gateway.netmask.packed, make_mac_bytes(mac), int(is_open), text
    )


def read_vlan_entry(key: bytes, value: bytes) -> VlanEntry:
    """FAILED where another program than ours wrote it."""
    address, mask, mac, is_open, text = _VLAN.unpack(value)
    owner = parse_mark(text.rstrip(b"\0").decode(errors="replace"))
    if owner is None:
        raise CaasError(Code.FAILED, f"BPF map nb_vlans, VID {read_vid_key(key)}: no mark of ours: {text!r}")
    gateway = ipaddress.IPv4Interface((address, ipaddress.IPv4Address(mask).__str__()))
    return VlanEntry(vid=read_vid_key(key), gateway=gateway, mac=read_mac_bytes(mac), open=bool(is_open), owner=owner)


def make_neighbours(vid: int, neighbours: Iterable[Neighbour]) -> dict[bytes, bytes]:
    """The entries of nb_neighbours for *neighbours*."""
    return {make_neighbour_key(vid, each.address): _NEIGHBOUR.pack(make_mac_bytes(each.mac)) for each in neighbours}


def make_neighbour_key(vid: int, address: ipaddress.IPv4Address) -> bytes:
    return _NEIGHBOUR_KEY.pack(vid, address.packed)


def read_neighbour(key: bytes, value: bytes) -> tuple[int, Neighbour]:
    """The VID and the neighbour."""
    vid, address = _NEIGHBOUR_KEY.unpack(key)
    (mac,) = _NEIGHBOUR.unpack(value)
    return vid, Neighbour(address=ipaddress.IPv4Address(address), mac=read_mac_bytes(mac))


def make_subnet_key(network: ipaddress.IPv4Network) -> bytes:
    return _SUBNET_KEY.pack(network.prefixlen, network.network_address.packed)


def read_subnet_key(key: bytes) -> ipaddress.IPv4Network:
    prefix, address = _SUBNET_KEY.unpack(key)
    return ipaddress.IPv4Network((address, prefix))


def read_traffic(value: bytes) -> tuple[int, int, int, int]:
    """Out packets, out bytes, in packets, in bytes: the sum over all CPUs."""
    sums = [0, 0, 0, 0]
    for each in _TRAFFIC.iter_unpack(value):
        for index, number in enumerate(each):
            sums[index] += number
    return sums[0], sums[1], sums[2], sums[3]


def read_drops(value: bytes) -> dict[str, int]:
    """Those that happened, by reason."""
    return {reason: number for reason, number in zip(REASONS, _DROPS.unpack(value), strict=False) if number}


def has_subnet(value: bytes, network: ipaddress.IPv4Network) -> bool:
    """Whether the entry *value* of nb_vlans is of that subnet, without reading the rest of it."""
    address, mask = int.from_bytes(value[:4], "big"), int.from_bytes(value[4:8], "big")
    return mask == int(network.netmask) and address & mask == int(network.network_address)


def make_mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def read_mac_bytes(mac: bytes) -> str:
    return mac.hex(":")
