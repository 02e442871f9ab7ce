"""A VLAN network at NATBox: who is in it, what of it is published, and where its APIs are seen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface

from coordinator.compiling.facts import Facts
from coordinator.config import ClusterFile, VlanNetwork
from coordinator.config.check_publishing import external_of
from coordinator.config.problem import Report
from coordinator.nova.urls import PUBLIC_APIS
from proto.model import Gateway, Neighbour, Nic, OwnAddress, Publication


def make_gateway(file: ClusterFile, network: VlanNetwork, inside: Mapping[str, Nic]) -> Gateway:
    """*network*, which has a gateway, as NATBox is to have it. *inside* has its containers' nics, by name."""
    assert network.gateway is not None
    neighbours = (Neighbour(address=nic.address.ip, mac=nic.mac) for nic in inside.values())
    publications = (
        Publication(protocol=one.protocol, port=one.port, to=inside[one.container].address.ip, to_port=one.to_port)
        for one in file.publications
        if one.container in inside
    )
    own = (
        OwnAddress(external=external, address=nic.address.ip)
        for name, nic in inside.items()
        if (external := file.containers[name].external) is not None
    )
    return Gateway(
        cluster=file.name,
        network=network.name,
        vid=network.vid,
        gateway=IPv4Interface((network.gateway, network.subnet.prefixlen)),
        neighbours=tuple(sorted(neighbours, key=lambda neighbour: neighbour.address)),
        external=network.external,
        publications=tuple(sorted(publications, key=lambda one: (one.protocol, one.port))),
        own_addresses=tuple(sorted(own, key=lambda one: one.external)),
        limits=network.limits,
    )


def make_publics(file: ClusterFile, facts: Facts | None) -> dict[str, str]:
    """ADDRESS:PORT of each API that *file* publishes, by service.

    Without facts of NATBox those are left out whose network has no external address.
    """
    if file.api is None:
        return {}
    uplink = next(iter(facts.natbox.uplink), None) if facts and facts.natbox else None
    found = {}
    for service in PUBLIC_APIS:
        holder = file.api_holder(service)
        address = (external_of(file, holder.name) or uplink) if holder else None
        if address is not None:
            found[str(service)] = f"{address}:{file.api.port(service)}"
    return found


def check_externals(file: ClusterFile, facts: Facts | None, report: Report) -> None:
    """No external address may be one that NATBox's uplink has: others count on those."""
    if facts is None or facts.natbox is None or not facts.natbox.uplink:
        return
    usual, *_ = uplink = facts.natbox.uplink
    externals: dict[tuple[str, str], IPv4Address | None] = {
        ("networks", name): network.external for name, network in file.vlans.items()
    } | {("containers", name): spec.external for name, spec in file.containers.items()}
    for (section, name), external in externals.items():
        if external not in uplink:
            continue
        path = (section, name, "external")
        hint = "an address of the uplink's side that nobody else has"
        if section == "networks" and external == usual:
            hint = "leave it out: networks have it without saying so"
        report.add(file.place(*path), ".".join(path), f"{external} is NATBox's own, on its uplink", hint=hint)
