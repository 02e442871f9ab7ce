"""What a host has that one cluster must keep away from: names, subnets, ports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from agent.core.doors import ForeignLink
from proto.marks import HOST
from proto.model import HostState
from proto.model.network import TABLE_MAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Names of links; subnets of other clusters, here or where their routes lead; TCP ports of the host."""

    links: tuple[str, ...]
    subnets: tuple[IPv4Network, ...]
    ports: tuple[int, ...]


def find_taken(foreign: Mapping[str, ForeignLink], others: HostState, ports: tuple[int, ...] = ()) -> Taken:
    """*foreign* are the links without our mark, *others* what all other clusters want here.

    What several clusters share, as a tunnel, is nobody's. *ports* are those that are taken by what is not ours.
    """
    links = {link.name for link in others.links if link.mark.cluster != HOST}
    subnets = {address.address.network for address in others.addresses}
    subnets |= {route.dst for route in others.routes if route.table == TABLE_MAIN}
    return Taken(
        links=tuple(sorted(links | foreign.keys())),
        subnets=tuple(sorted(subnets)),
        ports=tuple(sorted({*ports, *(forward.port for forward in others.forwards)})),
    )
