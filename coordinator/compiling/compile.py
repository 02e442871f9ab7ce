"""Cluster file + facts + what runs -> the desired state of each host and of NATBox. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from coordinator.compiling.allocate import allocate_addresses, allocate_macs, choose_mtus
from coordinator.compiling.facts import Facts, Pair, Placed, Remembered, Way
from coordinator.compiling.overlay import FIRST_BRIDGE, Overlay, make_forwards
from coordinator.compiling.publish import check_externals, make_gateway, make_publics
from coordinator.compiling.refuse import check_kept
from coordinator.config import ClusterFile, ContainerSpec, RoutedNetwork, VlanNetwork
from coordinator.config.problem import Problem, Report
from proto.errors import Code
from proto.marks import Mark
from proto.model import (
    Bridge,
    ClusterHost,
    Container,
    GatewayTable,
    HostEntry,
    Link,
    Nic,
    Vlan,
)
from proto.names import make_bridge_name, make_port_name, make_vlan_name

IMAGE_CONTROLLER = "nova-controller"
IMAGE_COMPUTE = "nova-compute"
DENSITY_HIGH = "high"
#: With more pairs than this, a warning says only how many.
PAIRS_SHOWN = 6
#: A Debian with git, sudo and sshd: what stack.sh finds where it is to set everything up itself.
IMAGE_BASE = "base"
NO_FACTS = "no host was asked: underlay MTU 1500 and ipip are assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What a cluster file comes to.

    `hosts` has every host of the file, in its order, also those without work. `natbox` is None where the file has
    none. `removed` is what `remembered` has and the file has not: whoever applies this asks for --remove first.
    `unresolved` has what stands for the underlay address of a host that nobody has looked up (0.0.0.1, …, which
    belong to no host: RFC 1122 3.2.1.3), and its name: such a file cannot be applied (ClusterFile.obstacles).
    `ways` are those that the facts had of its pairs of hosts. `publics` says where the APIs that the file publishes
    are seen from outside: ADDRESS:PORT by service, without those whose address only NATBox could tell.
    """

    cluster: str
    hosts: Mapping[str, ClusterHost]
    natbox: GatewayTable | None
    removed: tuple[Placed, ...] = ()
    warnings: tuple[str, ...] = ()
    unresolved: Mapping[IPv4Address, str] = field(default_factory=dict)
    ways: Mapping[Pair, Way] = field(default_factory=dict)
    publics: Mapping[str, str] = field(default_factory=dict)


def compile_cluster(
    file: ClusterFile, facts: Facts | None = None, remembered: Remembered | None = None, *, generation: int = 1
) -> Compiled:
    """The desired state that *file* comes to.

    Without *facts* the trunks' MTU is taken to be 1500, with a warning. What *remembered* has keeps its address and
    MAC. ConfigError: INVALID where the facts contradict the file, REFUSED with the list where it would move,
    renumber or remake a container that is there.
    """
    remembered = remembered or Remembered()
    report = Report(file.file or file.name)
    _check_underlay(file, facts, report)
    _check_taken(file, facts, report)
    check_externals(file, facts, report)
    ends = _choose_ends(file)
    overlay = Overlay(file, facts, remembered, ends)
    work = _Work(
        file=file,
        facts=facts,
        remembered=remembered,
        addresses=allocate_addresses(file, remembered, report),
        macs=allocate_macs(file, remembered),
        mtus=choose_mtus(file, facts, remembered, report) | overlay.choose_mtus(remembered, report),
        overlay=overlay,
        ends=ends,
    )
    containers = work.containers()
    _check_link_names(file, report)
    report.check()
    check_kept(file, containers, remembered, report)
    report.check(code=Code.REFUSED)
    return Compiled(
        cluster=file.name,
        hosts=work.hosts(containers, generation),
        natbox=work.gateways(containers, generation),
        removed=tuple(placed for name, placed in remembered.containers.items() if name not in file.containers),
        warnings=_warnings(file, facts, overlay),
        unresolved={ends[name]: name for name, host in file.hosts.items() if host.address is None},
        ways=facts.pairs if facts else {},
        publics=make_publics(file, facts),
    )


def image_of(spec: ContainerSpec) -> str:
    """The image a container starts from: the controller's where it holds any role but compute."""
    if spec.devstack is not None:
        return IMAGE_BASE
    return IMAGE_CONTROLLER if spec.is_controller else IMAGE_COMPUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What was chosen for one file, and what is made of it."""

    file: ClusterFile
    facts: Facts | None
    remembered: Remembered
    addresses: Mapping[str, IPv4Address]
    macs: Mapping[str, str]
    mtus: Mapping[str, int]
    overlay: Overlay
    ends: Mapping[str, IPv4Address]

    def containers(self) -> dict[str, Container]:
        controllers = [
            HostEntry(address=self.addresses[name], names=(name,))
            for name, spec in self.file.containers.items()
            if spec.is_controller
        ]
        controllers.sort(key=lambda entry: entry.address)
        everyone: tuple[HostEntry, ...] = ()
        if self.file.routed:
            entries = (HostEntry(address=self.addresses[name], names=(name,)) for name in self.file.containers)
            everyone = tuple(sorted(entries, key=lambda entry: entry.address))
        return {
            name: self._container(spec, everyone or self._few(name, controllers))
            for name, spec in self.file.containers.items()
        }

    def _few(self, name: str, controllers: list[HostEntry]) -> tuple[HostEntry, ...]:
        # In VLANs computes know themselves and the controllers only: one more of them changes none of the others.
        own = HostEntry(address=self.addresses[name], names=(name,))
        return (own, *(entry for entry in controllers if entry != own))

    def _container(self, spec: ContainerSpec, hosts: tuple[HostEntry, ...]) -> Container:
        return Container(
            cluster=self.file.name,
            hostname=spec.name,
            image=image_of(spec),
            nic=self._nic(spec),
            hosts=hosts,
            roles=spec.roles,
            clone_of=spec.clone_of,
            # A controller's memory holds the cloud's secrets, and there is one of it: not worth what merging tells.
            merge=self.file.density == DENSITY_HIGH and not spec.is_controller,
            ssh=spec.ssh,
        )

    def _nic(self, spec: ContainerSpec) -> Nic:
        network = self.file.networks[spec.network]
        if isinstance(network, RoutedNetwork):
            bridge = self.overlay.places[spec.host][network.name].bridge
        else:
            bridge = make_bridge_name(network.vid)
        return Nic(
            bridge=bridge,
            port=make_port_name(self.file.name, spec.name),
            mac=self.macs[spec.name],
            mtu=self.mtus[network.name],
            # A number: an address would be written out and read again.
            address=IPv4Interface((int(self.addresses[spec.name]), network.subnet_on(spec.host).prefixlen)),
            gateway=network.gateway_on(spec.host),
        )

    def hosts(self, containers: Mapping[str, Container], generation: int) -> dict[str, ClusterHost]:
        links: dict[str, dict[str, Link]] = {name: {} for name in self.file.hosts}
        placed: dict[str, list[Container]] = {name: [] for name in self.file.hosts}
        for name, spec in self.file.containers.items():
            placed[spec.host].append(containers[name])
            network = self.file.networks[spec.network]
            if isinstance(network, VlanNetwork) and containers[name].nic.bridge not in links[spec.host]:
                for link in self._links(network, spec.host):
                    links[spec.host][link.name] = link
        forwards = make_forwards(self.file, self.facts, self.remembered, self.ends, self.addresses)
        return {
            name: ClusterHost(
                cluster=self.file.name,
                host=name,
                generation=generation,
                state=self.overlay.state(
                    name,
                    self.mtus,
                    links=links[name].values(),
                    containers=placed[name],
                    forwards=forwards.get(name, ()),
                ),
            )
            for name in self.file.hosts
        }

    def _links(self, network: VlanNetwork, host: str) -> tuple[Link, ...]:
        mark = Mark(self.file.name, network.name)
        trunk = self.file.hosts[host].trunk
        bridge = make_bridge_name(network.vid)
        mtu = self.mtus[network.name]
        return (
            Bridge(name=bridge, mtu=mtu, mark=mark),
            Vlan(
                name=make_vlan_name(trunk, network.vid),
                parent=trunk,
                vid=network.vid,
                mtu=mtu,
                master=bridge,
                mark=mark,
            ),
        )

    def gateways(self, containers: Mapping[str, Container], generation: int) -> GatewayTable | None:
        if self.file.natbox is None:
            return None
        inside: dict[str, dict[str, Nic]] = {name: {} for name in self.file.networks}
        for name, spec in self.file.containers.items():
            inside[spec.network][name] = containers[name].nic
        return GatewayTable(
            cluster=self.file.name,
            generation=generation,
            gateways=tuple(
                make_gateway(self.file, network, inside[network.name])
                for network in self.file.vlans.values()
                if network.gateway is not None
            ),
        )


def _choose_ends(file: ClusterFile) -> dict[str, IPv4Address]:
    """The underlay address of each host, or what stands for it."""
    unknown = IPv4Address("0.0.0.0")
    ends = {}
    for name, host in file.hosts.items():
        if host.address is None:
            unknown += 1
        ends[name] = host.address or unknown
    return ends


def _check_underlay(file: ClusterFile, facts: Facts | None, report: Report) -> None:
    """A route of a host that holds an address of the underlay is the underlay's subnet: no network may touch it."""
    if facts is None:
        return
    addresses = [host.address for host in file.hosts.values()] + ([file.natbox.address] if file.natbox else [])
    seen: dict[IPv4Network, str] = {}
    for name, host in facts.hosts.items():
        for route in host.routes:
            seen.setdefault(route, name)
    underlay = {
        route: name
        for route, name in seen.items()
        if route.prefixlen > 0 and any(address in route for address in addresses)
    }
    for name, network in file.networks.items():
        subnets = network.blocks.values() if isinstance(network, RoutedNetwork) else [network.subnet]
        for route, host_name in underlay.items():
            for subnet in subnets:
                if subnet.overlaps(route):
                    message = f"{subnet} overlaps the underlay: {host_name} has a route to {route}"
                    path = ("networks", name, "subnet")
                    report.add(file.place(*path), ".".join(path), message, hint="choose a subnet that no host uses")


def _check_taken(file: ClusterFile, facts: Facts | None, report: Report) -> None:
    """No block may be what a host routes elsewhere: it would not reach that, or the block."""
    if facts is None:
        return
    ends = {host.address for host in file.hosts.values()}
    for name, network in file.routed.items():
        path = ("networks", name, "subnet")
        first, *_, last = sorted([*network.blocks.values(), *network.blocks.values()])
        for host, found in facts.hosts.items():
            theirs = [route for route in found.routes if not any(end in route for end in ends)]
            for other in (*theirs, *found.taken_subnets):
                if other.broadcast_address < first.network_address or last.broadcast_address < other.network_address:
                    continue
                if any(other.overlaps(block) for block in network.blocks.values()):
                    hint = "choose another subnet, or remove it there"
                    if other in theirs and FIRST_BRIDGE in found.taken:
                        hint += f" (Debian's {FIRST_BRIDGE}: systemctl disable --now lxc-net)"
                    what = "a route" if other in theirs else "another cluster's network"
                    message = f"{name} overlaps {other}: {host} has {what} there"
                    report.add(file.place(*path), ".".join(path), message, hint=hint)


def _check_link_names(file: ClusterFile, report: Report) -> None:
    """A container's port is called CLUSTER.CONTAINER, a vlan TRUNK.VID: a cluster "eth1" could take the latter's."""
    vlan_networks = file.vlans
    vlans = {
        make_vlan_name(file.hosts[spec.host].trunk, vlan_networks[spec.network].vid)
        for spec in file.containers.values()
        if spec.network in vlan_networks
    }
    for name in file.containers:
        port = make_port_name(file.name, name)
        if port in vlans:
            message = f"its port would be called {port}, as the vlan of a trunk"
            report.add(file.place("containers", name), f"containers.{name}", message, hint="rename the container")


def _warnings(file: ClusterFile, facts: Facts | None, overlay: Overlay) -> tuple[str, ...]:
    found = []
    if facts is None:
        found.append(NO_FACTS)
    elif silent := [name for name in file.hosts if name not in facts.hosts]:
        found.append(f"nothing is known of {', '.join(silent)}: MTU 1500 is assumed there")
    if unprobed := overlay.ways.unprobed():
        found.append(f"overlay auto: {_list_pairs(unprobed)} not probed: ipip is taken for them")
    used = {spec.network for spec in file.containers.values()}
    vlans = used & file.vlans.keys()
    if vlans and vlans < used:
        found.append(
            f"nova's containers are in VLANs ({', '.join(sorted(vlans))}) and in routed networks: nothing passes from "
            "one to the other, so those apart from their controller will not come up"
        )
    elif len(vlans) > 1:
        found.append(
            f"nova's containers are in several VLANs ({', '.join(sorted(vlans))}): nothing passes from one to another, "
            "so those apart from their controller will not come up"
        )
    found += _keyless(file, facts)
    found += [_tell(problem) for problem in file.warnings]
    found += [f"caas up will refuse this: {_tell(problem)}" for problem in file.obstacles]
    return tuple(found)


def _list_pairs(pairs: Sequence[Pair]) -> str:
    if len(pairs) > PAIRS_SHOWN:
        return f"{len(pairs)} pairs of hosts were"
    return f"{', '.join(f'{one} and {other}' for one, other in pairs)} were"


def _keyless(file: ClusterFile, facts: Facts | None) -> list[str]:
    """Hosts that let nobody in by SSH have containers that do not either: no mistake, but worth knowing."""
    known = facts.hosts if facts else {}
    hosts = dict.fromkeys(spec.host for spec in file.containers.values() if spec.ssh)
    return [
        f"{host}: nobody can log in to its containers by SSH: {known[host].keyless} has no keys"
        for host in hosts
        if host in known and known[host].keyless
    ]


def _tell(problem: Problem) -> str:
    return f"{problem} ({problem.hint})" if problem.hint else str(problem)
