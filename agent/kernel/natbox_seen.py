"""What the kernel has of a VLAN, put together from NATBox's BPF maps, its nft sets and the external addresses. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence

from agent.kernel.natbox_elements import make_elements, read_doors
from agent.kernel.natbox_layout import SeenGateway, VlanEntry
from agent.kernel.nft_table import Place
from proto.model import Gateway, Neighbour


def read_gateway(
    entry: VlanEntry,
    neighbours: Iterable[Neighbour],
    places: Sequence[Place],
    *,
    mac: str,
    externals: Collection[ipaddress.IPv4Address],
) -> SeenGateway:
    """The VLAN of *entry*. *mac* is the trunk's, *externals* the external addresses that are there.

    Not intact where an element is missing or leads to nobody, or an external address of the VLAN's is missing.
    """
    found = tuple(sorted(neighbours, key=lambda each: each.address))
    known = {neighbour.address for neighbour in found}
    doors = read_doors(entry.gateway, places)
    gateway = Gateway(
        cluster=entry.owner.cluster,
        network=entry.owner.object,
        vid=entry.vid,
        gateway=entry.gateway,
        neighbours=found,
        external=doors.external,
        publications=tuple(one for one in doors.publications if one.to in known),
        own_addresses=tuple(own for own in doors.own_addresses if own.address in known),
        limits=doors.limits,
    )
    whole = _by_place(places) == _by_place(make_elements(gateway)) and list_externals(gateway) <= set(externals)
    return SeenGateway(gateway=gateway, intact=entry.open and entry.mac == mac and whole)


def list_externals(gateway: Gateway) -> set[ipaddress.IPv4Address]:
    """The external addresses that *gateway* needs besides the uplink's own."""
    own = {each.external for each in gateway.own_addresses}
    return own if gateway.external is None else own | {gateway.external}


def _by_place(places: Iterable[Place]) -> dict[tuple[str, bytes], Place]:
    return {(name, element.key): (name, element) for name, element in places}
