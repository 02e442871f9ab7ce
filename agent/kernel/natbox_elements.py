"""What a VLAN has in the sets of NATBox's nft table, byte for byte: publications, own addresses, source, limits. Pure.

A container is named by its inner address there (natbox_layout), a VLAN by its inner subnet's first address.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.kernel.natbox_layout import MARK_IN, make_inner_subnet, read_inner_vid
from agent.kernel.nft_table import Element, Expression, Place
from proto.marks import Mark
from proto.model import Gateway, Limits, OwnAddress, Publication

PUBLISHED, PUBLISHED_HERE, INSIDE, OUTSIDE = "published", "published_here", "inside", "outside"
SOURCES, OWNERS, HERE = "sources", "owners", "here"
#: Limits of connections at a time and of new ones per second: a VLAN's own, and those of NATBox, which the rules make.
HELD_OWN, FRESH_OWN, HELD, FRESH = "held_own", "fresh_own", "held", "fresh"
#: The sets of the table that hold VLANs' settings, as nft(8) declares them. A test compares them with the bytes below.
SETS = {
    PUBLISHED: "map {0} {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}",
    PUBLISHED_HERE: "map {0} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}",
    INSIDE: "map {0} {{ type ipv4_addr : ipv4_addr; }}",
    OUTSIDE: "map {0} {{ type ipv4_addr : ipv4_addr; }}",
    SOURCES: "map {0} {{ type ipv4_addr : ipv4_addr; }}",
    OWNERS: "map {0} {{ type ipv4_addr : mark; }}",
    # Without a size: the kernel's sets of fixed size take no `ct count`. And not dynamic: from a dynamic set the kernel
    # removes an element whose connections have all ended.
    HELD_OWN: "set {0} {{ type ipv4_addr; }}",
    FRESH_OWN: "set {0} {{ type ipv4_addr; }}",
    HELD: "set {0} {{ type ipv4_addr; size 8192; flags dynamic; }}",
    FRESH: "set {0} {{ type ipv4_addr; size 8192; flags dynamic; }}",
    HERE: "set {0} {{ type ipv4_addr; }}",
}
#: Those that one VLAN has elements in.
OF_VLAN = (PUBLISHED, PUBLISHED_HERE, INSIDE, OUTSIDE, SOURCES, OWNERS, HELD_OWN, FRESH_OWN)
PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}
_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
_MARK, _COUNT, _WIDE = struct.Struct("=I"), struct.Struct("!I"), struct.Struct("!Q")
#: linux/netfilter/nf_tables.h: NFTA_CONNLIMIT_COUNT, _FLAGS; NFTA_LIMIT_RATE, _UNIT, _BURST, _TYPE, _FLAGS
_OVER = _COUNT.pack(1)  # NFT_CONNLIMIT_F_INV, NFT_LIMIT_F_INV
_SECOND, _PACKETS = _WIDE.pack(1), _COUNT.pack(0)
_CONNLIMIT_COUNT, _LIMIT_RATE = 1, 1


@dataclass(frozen=True, slots=True)
class SeenDoors:
    """What the sets have of one VLAN: the ways out of it and into it, and its limits where it has its own."""

    external: ipaddress.IPv4Address | None = None
    publications: tuple[Publication, ...] = ()
    own_addresses: tuple[OwnAddress, ...] = ()
    limits: Limits = field(default_factory=Limits)


def make_elements(gateway: Gateway) -> list[Place]:
    """Everything that *gateway* has in the sets; nothing where it publishes nothing and has no limits of its own."""
    subnet = make_vlan_key(gateway.vid)
    found: list[Place] = []
    for one in gateway.publications:
        target = make_inner(gateway.vid, one.to) + _port(one.to_port)
        door = _number(one.protocol) + _port(one.port)
        if gateway.external is None:
            found.append((PUBLISHED_HERE, Element(door, target)))
        else:
            found.append((PUBLISHED, Element(gateway.external.packed + door, target)))
    for own in gateway.own_addresses:
        inner = make_inner(gateway.vid, own.address)
        found += [(INSIDE, Element(own.external.packed, inner)), (OUTSIDE, Element(inner, own.external.packed))]
    if gateway.external is not None:
        found.append((SOURCES, Element(subnet, gateway.external.packed)))
    if gateway.publications or gateway.own_addresses:
        found.append((OWNERS, Element(subnet, _MARK.pack(MARK_IN | gateway.vid))))
    return found + _make_limits(gateway, subnet)


def _make_limits(gateway: Gateway, subnet: bytes) -> list[Place]:
    found, comment = [], str(Mark(gateway.cluster, gateway.network))
    if most := gateway.limits.connections:
        expression = Expression("connlimit", {_CONNLIMIT_COUNT: _COUNT.pack(most), 2: _OVER})
        found.append((HELD_OWN, Element(subnet, expression=expression, comment=comment)))
    if rate := gateway.limits.connections_per_second:
        attributes = {_LIMIT_RATE: _WIDE.pack(rate), 2: _SECOND, 3: _COUNT.pack(rate), 4: _PACKETS, 5: _OVER}
        found.append((FRESH_OWN, Element(subnet, expression=Expression("limit", attributes), comment=comment)))
    return found


def make_known_keys(vid: int) -> list[tuple[str, bytes]]:
    """Where a VLAN may have an element whatever it publishes: worth a look without knowing anything of it."""
    return [(name, make_vlan_key(vid)) for name in (SOURCES, OWNERS, HELD_OWN, FRESH_OWN)]


def read_vid(place: Place) -> int:
    """The VLAN that an element belongs to."""
    name, element = place
    inner = element.data if name in (PUBLISHED, PUBLISHED_HERE, INSIDE) else element.key
    return read_inner_vid(ipaddress.IPv4Address(inner[:4]))


def read_doors(gateway: ipaddress.IPv4Interface, places: Iterable[Place]) -> SeenDoors:
    """What *places*, those of one VLAN with the subnet of *gateway*, say."""
    external = None
    publications, own_addresses, limits = [], [], {}
    for name, element in places:
        if name in (PUBLISHED, PUBLISHED_HERE):
            publications.append(_read_publication(gateway, element))
        elif name == INSIDE:
            inside = read_inner(gateway, element.data)
            own_addresses.append(OwnAddress(external=ipaddress.IPv4Address(element.key), address=inside))
        elif name == SOURCES:
            external = ipaddress.IPv4Address(element.data)
        elif name in (HELD_OWN, FRESH_OWN):
            limits[name] = read_limit(element)
    return SeenDoors(
        external=external,
        publications=tuple(sorted(publications, key=lambda one: (one.protocol, one.port))),
        own_addresses=tuple(sorted(own_addresses, key=lambda own: own.external)),
        limits=Limits(connections=limits.get(HELD_OWN, 0), connections_per_second=limits.get(FRESH_OWN, 0)),
    )


def read_limit(element: Element) -> int:
    """The number in an element of HELD_OWN or FRESH_OWN."""
    assert element.expression is not None  # nft makes none without
    attributes: Mapping[int, bytes] = element.expression.attributes
    return int.from_bytes(attributes[_CONNLIMIT_COUNT], "big")


def _read_publication(gateway: ipaddress.IPv4Interface, element: Element) -> Publication:
    door = element.key[-8:]
    return Publication(
        protocol=_NAMES[door[0]],
        port=int.from_bytes(door[4:6], "big"),
        to=read_inner(gateway, element.data[:4]),
        to_port=int.from_bytes(element.data[4:6], "big"),
    )


def make_vlan_key(vid: int) -> bytes:
    return make_inner_subnet(vid).network_address.packed


def make_inner(vid: int, address: ipaddress.IPv4Address) -> bytes:
    """Where the stack sees the container with *address* in the VLAN."""
    return (int(make_inner_subnet(vid).network_address) | int(address) & 0xFFFF).to_bytes(4, "big")


def read_inner(gateway: ipaddress.IPv4Interface, inner: bytes) -> ipaddress.IPv4Address:
    """The real address of the container at *inner* in the subnet of *gateway*."""
    hosts = int(gateway.hostmask)
    return ipaddress.IPv4Address(int(gateway.network.network_address) | int.from_bytes(inner, "big") & hosts)


def _number(protocol: str) -> bytes:
    return bytes((PROTOCOL_NUMBERS[protocol], 0, 0, 0))


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big") + bytes(2)
