"""Who is to reach whom, and by what way: read from the hosts' desired states. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from proto.model import (
    IPIP_OVERHEAD,
    VXLAN_OVERHEAD,
    ClusterHost,
    Container,
    HostState,
    Ipip,
    Route,
    Vlan,
    Vxlan,
)
from proto.model.network import TABLE_MAIN

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A way from one host to another: the sender's underlay address and the receiver's, and what the outer headers
    take of each packet, in bytes."""

    kind: str
    local: IPv4Address
    remote: IPv4Address
    overhead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One container, and whom it is to ask: name -> address."""

    name: str
    host: str
    address: str
    mtu: int
    mac: str
    asks: Mapping[str, str]


def targets_of(hosts: Mapping[str, ClusterHost]) -> dict[str, Target]:
    """Whom each container should reach, by name: its gateway where it has one, all others of its subnet, and those
    that its host has a route of ours to."""
    placed = [(host, one) for host, desired in hosts.items() for one in desired.state.containers]
    found = {}
    for host, one in placed:
        state = hosts[host].state
        asks = {other.hostname: str(other.nic.address.ip) for _, other in placed if _is_asked(state, one, other)}
        if one.nic.gateway is not None:
            asks[GATEWAY] = str(one.nic.gateway)
        found[one.hostname] = Target(
            name=one.hostname,
            host=host,
            address=str(one.nic.address.ip),
            mtu=one.nic.mtu,
            mac=one.nic.mac,
            asks=asks,
        )
    return found


def _is_asked(state: HostState, one: Container, other: Container) -> bool:
    if one is other:
        return False
    # Two networks may have the same subnet: a bridge's name says which it is.
    if (one.nic.bridge, one.nic.address.network) == (other.nic.bridge, other.nic.address.network):
        return True
    routed = {address.link: address.address.network for address in state.addresses}
    is_here = any(other.nic.address.ip in network for network in routed.values())
    return one.nic.bridge in routed and (is_here or find_route(state, other.nic.address.ip) is not None)


def find_route(state: HostState, address: IPv4Address) -> Route | None:
    """The longest of our routes of the main table that leads to *address*."""
    leading = [route for route in state.routes if route.table == TABLE_MAIN and address in route.dst]
    return max(leading, key=lambda route: route.dst.prefixlen, default=None)


def find_tunnel(state: HostState, address: IPv4Address) -> Tunnel | None:
    """The tunnel that packets to *address* take from that host; None where they take none."""
    route = find_route(state, address)
    by_name = {link.name: link for link in state.links if isinstance(link, Ipip | Vxlan)}
    if route is None or (link := by_name.get(route.dev)) is None or (remote := link.remote or route.encap) is None:
        return None
    overhead = VXLAN_OVERHEAD if isinstance(link, Vxlan) else IPIP_OVERHEAD
    return Tunnel(kind=link.kind, local=link.local, remote=remote, overhead=overhead)


def find_vlan(state: HostState, bridge: str) -> Vlan | None:
    """The vlan that joins *bridge* to the trunk."""
    return next((link for link in state.links if isinstance(link, Vlan) and link.master == bridge), None)
