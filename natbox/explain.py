"""What would happen to a packet that begins a connection, and why, by the tables in force. Pure.

The order is the datapath's own (agent/kernel/bpf/natbox.bpf.c, agent/kernel/natbox_chains.py); a test sends packets and
compares. What a connection that exists already would change is not known here, and said where it matters.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from agent.kernel.natbox_layout import INNER, Surroundings
from natbox.tables import Tables
from proto.errors import invalid
from proto.model import Gateway
from proto.model.gateway import PORT_MAX

MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
PASSES, DROPPED, ANSWERED = "passes", "dropped", "answered"
VID_MAX = 4095
PROTOCOLS = ("tcp", "udp", "icmp")
UNASKED = "nobody asked for it"
IPv4 = ipaddress.IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet as it arrives: from the uplink, or from the trunk with one 802.1Q tag *vid* (0: no tag).

    ICMP is an echo request. *mac* is the sender's; "" the one that the table has of *source*.
    """

    from_uplink: bool
    vid: int
    source: IPv4
    destination: IPv4
    protocol: str
    source_port: int = 0
    destination_port: int = 0
    mac: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise invalid(f"packet: protocol {self.protocol!r}: one of {', '.join(PROTOCOLS)}")
        if not 0 <= self.vid <= VID_MAX:
            raise invalid(f"packet: VID {self.vid}: 0..{VID_MAX}, 0 for an untagged one")
        for port in (self.source_port, self.destination_port):
            if not 0 <= port <= PORT_MAX:
                raise invalid(f"packet: port {port}: 0..{PORT_MAX}")
        if self.mac and not MAC.fullmatch(self.mac):
            raise invalid(f"packet: MAC {self.mac!r}: six pairs of hexadecimal digits (0-9, a-f) are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is no table's: the machine's own, its uplink, and by which link a packet to the destination leaves."""

    surroundings: Surroundings
    uplink: str
    uplink_addresses: tuple[IPv4, ...]
    service: tuple[IPv4, int] | None
    """Where the daemon itself serves, if at an address."""
    way: str
    """The link by which the machine would send to the packet's destination; "" where there is no route."""
    connections: int
    """NATBox's own limit of connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The verdict (MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
    PASSES, DROPPED, ANSWERED), a drop's reason as Counters has it, whose it is, and what was looked at."""

    verdict: str
    reason: str
    owner: Gateway | None
    steps: tuple[str, ...]


@dataclass
class _Walk:
    """One packet's way so far."""

    packet: Packet
    tables: Tables
    facts: Facts
    owner: Gateway | None = None
    steps: list[str] = field(default_factory=list)

    def end(self, verdict: str, reason: str, step: str) -> Explanation:
        return Explanation(verdict=verdict, reason=reason, owner=self.owner, steps=(*self.steps, step))

    def drop(self, reason: str, step: str) -> Explanation:
        return self.end(DROPPED, reason, step)


def explain(packet: Packet, tables: Tables, facts: Facts) -> Explanation:
    """What would happen to *packet* if it arrived now."""
    walk = _Walk(packet, tables, facts)
    return _from_uplink(walk) if packet.from_uplink else _from_trunk(walk)


def _from_trunk(walk: _Walk) -> Explanation:
    packet = walk.packet
    if packet.vid == 0:
        return walk.drop("untagged", "it has no 802.1Q tag: the trunk is for tagged frames alone")
    if packet.vid == VID_MAX:
        return walk.drop("VID 0 or 4095", f"VID {packet.vid} is no VLAN's (IEEE 802.1Q)")
    owner = walk.tables.find_vid(packet.vid)
    if owner is None:
        return walk.drop("VID of no cluster", f"no cluster in force has VID {packet.vid}")
    walk.owner = owner
    walk.steps.append(f"VID {packet.vid} is {owner.name}'s")
    known = {near.address: near.mac for near in owner.neighbours}
    if packet.source not in known:
        return walk.drop("spoofed source", f"{packet.source} is no container of {owner.name}")
    if packet.mac and packet.mac != known[packet.source]:
        return walk.drop("spoofed source", f"{packet.source} has the MAC {known[packet.source]}, not {packet.mac}")
    walk.steps.append(f"{packet.source} with MAC {known[packet.source]} is a container of it")
    return _to_stack(walk, owner)


def _to_stack(walk: _Walk, owner: Gateway) -> Explanation:
    """The rest of what natbox_in checks: where the packet may not go from a VLAN at all."""
    to = walk.packet.destination
    if to == owner.gateway.ip:
        if walk.packet.protocol == "icmp":
            return walk.end(ANSWERED, "", f"an echo request to the gateway {to} is answered on the trunk")
        return walk.drop("to the gateway itself", f"the gateway {to} answers ARP and echo requests, and nothing else")
    if to in owner.gateway.network:
        return walk.drop("to its own subnet", f"{to} is in {owner.gateway.network}: its neighbours reach it themselves")
    if not _is_unicast(to):
        return walk.drop("not unicast", f"{to} is not an address of one host outside")
    other = next((one for one in walk.tables.gateways() if to in one.gateway.network), None)
    if other is not None:
        return walk.drop("to another VLAN", f"{to} is in a subnet that clusters have: {other.gateway.network}")
    walk.steps.append("the tag is stripped")
    return _leave(walk, owner)


def _leave(walk: _Walk, owner: Gateway) -> Explanation:
    to = walk.packet.destination
    if target := _find_published(walk):
        return _pass_across(walk, owner, *target)
    if to in walk.facts.surroundings.addresses or _is_external(walk, to):
        return walk.drop("to NATBox's own address", f"{to} is NATBox's own, and nothing is published there that fits")
    if walk.facts.way != walk.facts.uplink:
        link = walk.facts.way or "no link at all"
        return walk.drop("not to the uplink", f"the way to {to} is {link}, not the uplink {walk.facts.uplink}")
    _tell_limit(walk, owner)
    return walk.end(PASSES, "", f"it leaves by {walk.facts.uplink} with the source {_name_source(walk, owner)}")


def _pass_across(walk: _Walk, owner: Gateway, target: Gateway, to: IPv4, port: int) -> Explanation:
    """From a VLAN to what is published: as anybody from outside, so by an external address."""
    _tell_limit(walk, owner)
    _tell_limit(walk, target)
    own = _own_address(owner, walk.packet.source) or owner.external or walk.packet.destination
    walk.steps.append(f"{walk.packet.destination} is published by {target.name}, and {own} becomes the source")
    return walk.end(PASSES, "", f"it goes to {_name_place(to, port)} with the tag {target.vid}, {target.name}'s")


def _from_uplink(walk: _Walk) -> Explanation:
    packet, facts = walk.packet, walk.facts
    if packet.source in facts.surroundings.addresses or _is_external(walk, packet.source):
        return walk.drop("", f"{packet.source} is NATBox's own: the kernel takes it from nobody, and does not count it")
    if packet.destination.is_multicast or packet.destination.is_loopback:
        return walk.drop("", f"{packet.destination} is nobody's here: the kernel drops it, and does not count it")
    target = _find_published(walk)
    if target is not None:
        owner, to, port = target
        walk.owner = owner
        walk.steps.append(f"{packet.destination} is published by {owner.name} for this")
        if packet.source in INNER:
            return walk.drop(UNASKED, f"{packet.source} is an address that only NATBox gives ({INNER})")
        _tell_limit(walk, owner)
        return walk.end(PASSES, "", f"it goes to {_name_place(to, port)} with exactly one tag, {owner.vid}, priority 0")
    if packet.destination in facts.uplink_addresses:
        if packet.protocol == "icmp":
            return walk.end(ANSWERED, "", f"NATBox answers echo requests for {packet.destination}")
        if packet.protocol == "tcp" and (packet.destination, packet.destination_port) == facts.service:
            return walk.end(ANSWERED, "", "the daemon itself serves there")
    return walk.drop(UNASKED, "nothing is published there, and it answers no connection that a container began")


def _find_published(walk: _Walk) -> tuple[Gateway, IPv4, int] | None:
    """Whose the destination is, the container, and its port there (0: the port stays)."""
    packet = walk.packet
    for gateway in walk.tables.gateways():
        places = walk.facts.uplink_addresses if gateway.external is None else (gateway.external,)
        for one in gateway.publications if packet.destination in places else ():
            if (one.protocol, one.port) == (packet.protocol, packet.destination_port):
                return gateway, one.to, one.to_port
        for own in gateway.own_addresses:
            if own.external == packet.destination:
                return gateway, own.address, 0
    return None


def _is_external(walk: _Walk, address: IPv4) -> bool:
    return any(
        address == gateway.external or any(address == own.external for own in gateway.own_addresses)
        for gateway in walk.tables.gateways()
    )


def _own_address(gateway: Gateway, address: IPv4) -> IPv4 | None:
    return next((own.external for own in gateway.own_addresses if own.address == address), None)


def _name_source(walk: _Walk, owner: Gateway) -> str:
    own = _own_address(owner, walk.packet.source)
    if own is not None:
        return f"{own}, the container's own"
    if owner.external is not None:
        return f"{owner.external}, {owner.name}'s, and a port at random"
    addresses = walk.facts.uplink_addresses
    return f"{addresses[0] if addresses else 'none: the uplink has no address'}, the uplink's, and a port at random"


def _tell_limit(walk: _Walk, gateway: Gateway) -> None:
    most = gateway.limits.connections or walk.facts.connections
    walk.steps.append(f'{gateway.name} may have {most} connections: dropped as "too many connections" above that')


def _name_place(address: IPv4, port: int) -> str:
    return f"{address}:{port}" if port else str(address)


def _is_unicast(address: IPv4) -> bool:
    return address.packed[0] not in (0, 127) and address.packed[0] < 224
