"""A cluster file as a whole: what each value is to the others. Reports everything at once; contacts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from coordinator.config.check_publishing import check_publishing
from coordinator.config.check_routed import check_routed
from coordinator.config.cluster import ClusterFile, ContainerSpec, Network, RoutedNetwork, VlanNetwork
from coordinator.config.problem import Report, suggest
from coordinator.nova.roles import CONTROLLER_ROLES

#: NATBox knows a container by its VID and the last 16 bits of its address (docs/adr/0003).
SERVED_PREFIXES = (16, 30)


def check_cluster(file: ClusterFile, report: Report) -> None:
    """Report everything that can be known to be wrong from *file* alone."""
    check_places(file, report)
    _check_roles(file, report)
    check_publishing(file, report)


def check_places(file: ClusterFile, report: Report) -> None:
    """Report what is wrong with hosts, networks and where containers are; not who holds which role."""
    _check_hosts(file, report)
    _check_networks(file, report)
    check_routed(file, report)
    _check_overlaps(file, report)
    _check_references(file, report)
    _check_addresses(file, report)


def _add(file: ClusterFile, report: Report, path: Sequence[str], message: str, *, hint: str = "") -> None:
    report.add(file.place(*path), ".".join(path), message, hint=hint)


def _line(file: ClusterFile, *path: str) -> str:
    line = file.place(*path).line
    return f" (line {line})" if line else ""


def _check_hosts(file: ClusterFile, report: Report) -> None:
    first: dict[IPv4Address, str] = {}
    for name, host in file.hosts.items():
        other = first.setdefault(host.address, name) if host.address else name
        if other != name:
            where = _line(file, "hosts", other)
            message = f"{host.address} is the address of host {other} already{where}"
            _add(file, report, ("hosts", name, "address"), message, hint="each host has an address of its own")
    if file.natbox and file.natbox.address in first:
        host = file.hosts[first[file.natbox.address]]
        if host.trunk == file.natbox.trunk:
            message = f"{host.address} and {host.trunk} are host {host.name}'s{_line(file, 'hosts', host.name)}"
            _add(file, report, ("natbox", "address"), message, hint="NATBox has its trunk for itself")


def _check_networks(file: ClusterFile, report: Report) -> None:
    first: dict[int, str] = {}
    for name, network in file.vlans.items():
        other = first.setdefault(network.vid, name) if network.vid else name
        if other != name:
            message = f"VID {network.vid} is network {other}'s already{_line(file, 'networks', other)}"
            _add(file, report, ("networks", name, "vlan"), message, hint="two networks on one trunk need two VIDs")
        _check_gateway(file, report, network)


def _check_gateway(file: ClusterFile, report: Report, network: VlanNetwork) -> None:
    if network.gateway is None:
        return
    if not SERVED_PREFIXES[0] <= network.subnet.prefixlen <= SERVED_PREFIXES[1]:
        message = f"{network.subnet}: NATBox serves subnets of /{SERVED_PREFIXES[0]} to /{SERVED_PREFIXES[1]}"
        hint = "choose another prefix length, or drop the gateway: without one the network is an island"
        _add(file, report, ("networks", network.name, "subnet"), message, hint=hint)
    path = ("networks", network.name, "gateway")
    if wrong := _not_a_host_of(network.subnet, network.gateway):
        _add(file, report, path, wrong, hint=f"{network.subnet.network_address + 1}, for example")
    if file.natbox is None and ("natbox",) not in file.places:
        message = f"a gateway needs a NATBox that has the address {network.gateway}"
        _add(file, report, path, message, hint="add natbox: {address: …, trunk: …, uplink: …}, or drop the gateway")


def _not_a_host_of(subnet: IPv4Network, address: IPv4Address) -> str:
    if address not in subnet:
        return f"{address} is outside {subnet}"
    if address == subnet.network_address:
        return f"{address} is the network address of {subnet}"
    if address == subnet.broadcast_address:
        return f"{address} is the broadcast address of {subnet}"
    return ""


def _subnets(file: ClusterFile) -> list[tuple[IPv4Network, Network]]:
    """Every subnet of the file, in its order: one for each VLAN, one for each host of a routed network."""
    found: list[tuple[IPv4Network, Network]] = []
    for network in file.networks.values():
        subnets = network.blocks.values() if isinstance(network, RoutedNetwork) else [network.subnet]
        found += [(subnet, network) for subnet in subnets]
    return found


def _check_overlaps(file: ClusterFile, report: Report) -> None:
    underlay = [(f"host {name}", host.address) for name, host in file.hosts.items() if host.address]
    if file.natbox:
        underlay.append(("NATBox", file.natbox.address))
    for subnet, network in _subnets(file):
        inside = [f"{who} ({address})" for who, address in underlay if address in subnet]
        if inside:
            shown = ", ".join(inside[:5]) + (", …" if len(inside) > 5 else "")
            message = f"{subnet} overlaps the underlay: {shown} is inside it"
            _add(
                file,
                report,
                ("networks", network.name, "subnet"),
                message,
                hint="choose a subnet that the hosts do not use",
            )
    _check_disjoint(file, report)


def _check_disjoint(file: ClusterFile, report: Report) -> None:
    """Two subnets overlap only where one contains the other: after sorting, the widest so far tells."""
    outer: tuple[IPv4Network, Network] | None = None
    for found in sorted(_subnets(file), key=lambda found: found[0]):
        if outer is None or not outer[0].overlaps(found[0]):
            outer = found
            continue
        pair = sorted((outer, found), key=lambda found: file.place("networks", found[1].name))
        (first, earlier), (second, later) = pair
        message = f"{second} overlaps {first} of network {earlier.name}"
        message += _line(file, "networks", earlier.name, "subnet")
        _add(file, report, ("networks", later.name, "subnet"), message, hint="a cluster's subnets are disjoint")


def _check_references(file: ClusterFile, report: Report) -> None:
    # What is in the file but could not be read counts as known: its own mistake is reported already.
    named = [path[:2] for path in file.places if len(path) > 1]
    with_containers = (name for name, host in file.hosts.items() if not host.is_peer)
    hosts = {*with_containers, *(name for section, name in named if section == "hosts")}
    networks = {*file.networks, *(name for section, name in named if section == "networks")}
    for name, spec in file.containers.items():
        if spec.host and spec.host not in hosts:
            _add(
                file,
                report,
                ("containers", name, "host"),
                f"unknown host {spec.host!r}",
                hint=suggest(spec.host, hosts),
            )
        if spec.network and spec.network not in networks:
            hint = suggest(spec.network, networks)
            _add(file, report, ("containers", name, "network"), f"unknown network {spec.network!r}", hint=hint)
    _check_trunks(file, report)


def _check_trunks(file: ClusterFile, report: Report) -> None:
    first: dict[str, ContainerSpec] = {}
    for spec in file.containers.values():
        if spec.network in file.vlans:
            first.setdefault(spec.host, spec)
    # A key of the host that could not be read may be its trunk, misspelt: that is told already.
    unread = {problem.path.split(".")[1] for problem in report.problems if problem.path.startswith("hosts.")}
    for name, host in file.hosts.items():
        if not host.trunk and name in first and name not in unread and ("hosts", name, "trunk") not in file.places:
            user = first[name]
            message = f"'trunk' is missing: container {user.name} is in VLAN network {user.network}"
            _add(file, report, ("hosts", name), message, hint="add trunk: LINK, the link that carries tagged frames")


def _check_addresses(file: ClusterFile, report: Report) -> None:
    first: dict[IPv4Address, str] = {}
    count: dict[IPv4Network, int] = {}
    for name, spec in file.containers.items():
        if spec.address is not None and (other := first.setdefault(spec.address, name)) != name:
            message = f"{spec.address} is container {other}'s already{_line(file, 'containers', other, 'address')}"
            hint = "choose another address, or leave it out to have one chosen"
            _add(file, report, ("containers", name, "address"), message, hint=hint)
        network = file.networks.get(spec.network)
        if network is None or (isinstance(network, RoutedNetwork) and spec.host not in network.blocks):
            continue
        subnet = network.subnet_on(spec.host)
        count[subnet] = count.get(subnet, 0) + 1
        if count[subnet] == network.room + 1:
            message = f"network {network.name} is full: {subnet} has room for {network.room}"
            _add(file, report, ("containers", name), message, hint="choose a larger subnet")
        if spec.address is None:
            continue
        path = ("containers", name, "address")
        if wrong := _not_a_host_of(subnet, spec.address):
            here = f" on {spec.host}" if isinstance(network, RoutedNetwork) else ""
            _add(file, report, path, wrong, hint=f"network {network.name} is {subnet}{here}")
        elif spec.address == network.gateway_on(spec.host):
            message = f"{spec.address} is the gateway of network {network.name}"
            _add(file, report, path, message, hint="choose another address")


def _check_roles(file: ClusterFile, report: Report) -> None:
    holders: dict[str, list[str]] = {role: [] for role in CONTROLLER_ROLES}
    for name, spec in file.containers.items():
        for role in spec.roles:
            if role in holders:
                holders[role].append(name)
    for role, names in holders.items():
        for name in names[1:]:
            message = f"{role} is held by {names[0]} already{_line(file, 'containers', names[0])}"
            _add(file, report, ("containers", name, "roles"), message, hint="only compute may have several holders")
    # A container without roles is one whose roles could not be read: what it would have held is not known.
    missing = [role for role, names in holders.items() if not names]
    if not missing or not file.containers or not all(spec.roles for spec in file.containers.values()):
        return
    if len(missing) == len(holders):
        message, word = f"no controller: nobody holds {', '.join(missing)}", "controller"
    else:
        message, word = f"nobody holds {', '.join(missing)}", ", ".join(missing)
    _add(file, report, ("containers",), message, hint=f"add {word} to the roles of one container")
