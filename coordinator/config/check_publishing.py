"""What a cluster file publishes at NATBox, as a whole: each address and port once, and only what NATBox can do."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from coordinator.config.cluster import ClusterFile, ContainerSpec, Path, PublishedPort, RoutedNetwork, VlanNetwork
from coordinator.config.problem import Report, suggest
from proto.model import Limits

BEHIND = "only containers of a VLAN with a gateway at NATBox are seen from outside"


def check_publishing(file: ClusterFile, report: Report) -> None:
    """Report what is wrong with the external addresses, the limits and the publications of *file*."""
    _check_networks(file, report)
    _check_own_addresses(file, report)
    _check_targets(file, report)
    _check_ports(file, report)


def external_of(file: ClusterFile, container: str) -> IPv4Address | None:
    """Where the ports of *container* are published: its network's external address, None for the uplink's own."""
    spec = file.containers.get(container)
    network = file.networks.get(spec.network) if spec else None
    return network.external if isinstance(network, VlanNetwork) else None


def _add(file: ClusterFile, report: Report, path: Path, message: str, *, hint: str) -> None:
    report.add(file.place(*path), ".".join(path), message, hint=hint)


def _check_networks(file: ClusterFile, report: Report) -> None:
    for name, network in file.vlans.items():
        path = ("networks", name, "external")
        for key, found in (("external", network.external is not None), ("limits", network.limits != Limits())):
            if found and network.gateway is None:
                message = "the network has no gateway: nothing of it passes NATBox"
                _add(file, report, ("networks", name, key), message, hint="add gateway: ADDRESS")
        if network.external is not None:
            _check_address(file, report, path, network.external)


def _check_own_addresses(file: ClusterFile, report: Report) -> None:
    first: dict[IPv4Address, Path] = {
        network.external: ("networks", name, "external")
        for name, network in reversed(file.vlans.items())
        if network.external is not None
    }
    for name, spec in file.containers.items():
        if spec.external is None:
            continue
        path = ("containers", name, "external")
        other = first.setdefault(spec.external, path)
        if other != path:
            line = file.place(*other).line
            message = f"{spec.external} is the external address of {other[0][:-1]} {other[1]} already (line {line})"
            _add(file, report, path, message, hint="an address of its own is nobody else's")
        if why := _not_behind(file, spec):
            _add(file, report, path, why, hint=BEHIND)
        _check_address(file, report, path, spec.external)


def _check_address(file: ClusterFile, report: Report, path: Path, address: IPv4Address) -> None:
    if why := next(_wrong_with(file, address), ""):
        _add(file, report, path, f"{address} {why}", hint="an address of the uplink's side that nobody else has")


def _wrong_with(file: ClusterFile, address: IPv4Address) -> Iterator[str]:
    """Why *address* cannot be an external one."""
    kinds = {
        "multicast": address.is_multicast,
        "loopback": address.is_loopback,
        "link-local": address.is_link_local,
        "reserved": address.is_reserved or address.packed[0] == 0,
    }
    yield from (f"is {kind} (RFC 6890)" for kind, is_kind in kinds.items() if is_kind)
    if file.natbox and address == file.natbox.address:
        yield "is NATBox's own: there its daemon answers"
    yield from (f"is host {host.name}'s" for host in file.hosts.values() if host.address == address)
    for network in file.networks.values():
        subnets = network.blocks.values() if isinstance(network, RoutedNetwork) else [network.subnet]
        line = file.place("networks", network.name, "subnet").line
        yield from (
            f"is inside {subnet}, where the containers of network {network.name} are (line {line})"
            for subnet in subnets
            if address in subnet
        )


def _not_behind(file: ClusterFile, spec: ContainerSpec) -> str:
    """Why nothing of the container *spec* can be published; "" also where its network is not known."""
    network = file.networks.get(spec.network)
    if isinstance(network, RoutedNetwork):
        return f"{spec.name} is in the routed network {network.name}, which is not behind NATBox"
    if network is not None and network.gateway is None:
        return f"{spec.name} is in network {network.name}, which has no gateway"
    return ""


def _check_targets(file: ClusterFile, report: Report) -> None:
    unread = {path[1] for path in file.places if path[:1] == ("containers",) and len(path) > 1}
    for one in file.ports:
        spec = file.containers.get(one.container)
        if spec is None:
            if one.container not in unread:
                hint = suggest(one.container, {*file.containers, *unread})
                _add(file, report, (*one.path, "to"), f"unknown container {one.container!r}", hint=hint)
        elif why := _not_behind(file, spec):
            _add(file, report, (*one.path, "to"), why, hint=BEHIND)
    if file.api is None:
        return
    holders = {one.container for one in file.publications if one not in file.ports}
    for name in sorted(holders):
        if why := _not_behind(file, file.containers[name]):
            _add(file, report, file.api.path, f"the API cannot be published: {why}", hint=BEHIND)


def _check_ports(file: ClusterFile, report: Report) -> None:
    first: dict[tuple[IPv4Address | None, str, int], PublishedPort] = {}
    for one in file.publications:
        if one.container not in file.containers:
            continue
        external = external_of(file, one.container)
        other = first.setdefault((external, one.protocol, one.port), one)
        if other is one:
            continue
        is_api = one not in file.ports
        where = f"of {external}" if external else "at NATBox"
        line = file.place(*other.path).line
        taken = f"{other.container}:{other.to_port} already (line {line})"
        hint = "give the API other ports: publish: [{api: 18000}]" if is_api else "choose another port"
        path = one.path if is_api else (*one.path, "port")
        _add(file, report, path, f"{one.protocol} port {one.port} {where} leads to {taken}", hint=hint)
