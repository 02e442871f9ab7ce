"""Routed networks: each host's bridges, tunnels, routes, rules and translation. Pure and deterministic.

Every two hosts that have containers are joined, and every host that a network is to be tunnelled to with each host of
that network: by an ipip tunnel, by the vxlan device of each host, or directly, through the underlay that both are on.
By construction the destinations of the routes over a tunnel are exactly the inner sources that may come out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import count

from coordinator.compiling.facts import Facts, Remembered
from coordinator.compiling.ways import DIRECT, IPIP, OVERHEADS, VXLAN, Ways
from coordinator.config import ClusterFile, ContainerSpec, RoutedNetwork
from coordinator.config.problem import Report
from proto.marks import HOST, TUNNEL_RULE_PRIORITY, TUNNEL_TABLE, Mark
from proto.model import (
    Address,
    Bridge,
    Container,
    Forward,
    HostState,
    Ipip,
    Link,
    Masquerade,
    Route,
    Rule,
    Vxlan,
)
from proto.names import make_ipip_name, make_link_name, make_routed_bridge_name, make_vxlan_name

#: The bridge of the first routed network of a host; what LXC's own is called.
FIRST_BRIDGE = "lxcbr0"
#: With more ends than this, one tunnel of each host leads to all of them.
PAIRED_MAX = 32
#: Rally's first port for a container's SSH.
FIRST_FORWARD = 1222
SSH_PORT = 22
_WHOLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A routed network on one host: its block there and the bridge that has the block's first address."""

    network: RoutedNetwork
    block: IPv4Network
    bridge: str

    @property
    def gateway(self) -> IPv4Address:
        return self.block.network_address + 1


class Overlay:
    """The routed networks of one file, on the hosts where they have containers.

    *ends* has the underlay address of each host.
    """

    def __init__(
        self, file: ClusterFile, facts: Facts | None, remembered: Remembered, ends: Mapping[str, IPv4Address]
    ) -> None:
        self._file = file
        self._facts = facts
        self._ends = ends
        bridges = choose_bridges(file, facts, remembered)
        self.places: dict[str, dict[str, Place]] = {}
        for host, network in bridges:
            place = Place(
                network=file.routed[network], block=file.routed[network].blocks[host], bridge=bridges[host, network]
            )
            self.places.setdefault(host, {})[network] = place
        self.places = {host: self.places[host] for host in file.hosts if host in self.places}
        by_end = {end: host for host, end in ends.items()}
        self._peers = {
            host: tuple(
                dict.fromkeys(
                    by_end[peer]
                    for place in places.values()
                    for peer in place.network.tunnel_to
                    if by_end[peer] != host
                )
            )
            for host, places in self.places.items()
        }
        #: Every block with its host, and the far ends that its network is tunnelled to.
        self._flat = [
            (host, place.block, frozenset(place.network.tunnel_to))
            for host, places in self.places.items()
            for place in places.values()
        ]
        involved = {*self.places, *(peer for peers in self._peers.values() for peer in peers)}
        self._involved = [host for host in file.hosts if host in involved]
        self._paired = len(self._involved) <= PAIRED_MAX
        self._exempted: dict[str, tuple[IPv4Network, ...]] = {}
        self._blocks = [place.block for places in self.places.values() for place in places.values()]
        overlays = [network.overlay for network in file.routed.values()]
        self.ways = Ways(
            overlays[0] if overlays else IPIP,
            facts,
            involved=self._involved,
            homes=self.places.keys(),
            peers=self._peers,
        )
        self.mtu = self.ways.mtu()

    def state(
        self,
        host: str,
        mtus: Mapping[str, int],
        *,
        links: Iterable[Link],
        containers: Iterable[Container],
        forwards: Iterable[Forward],
    ) -> HostState:
        """What *host* has of it, with what else it has; *mtus* are those of the networks."""
        places = self.places.get(host, {}).values()
        routes = tuple(self._routes(host))
        return HostState(
            links=(*links, *(self._bridge(place, mtus) for place in places), *self._tunnels(host, routes)),
            addresses=tuple(
                Address(link=place.bridge, address=IPv4Interface((place.gateway, place.block.prefixlen)))
                for place in places
            ),
            routes=routes,
            rules=tuple(self._rules(host)),
            masquerades=tuple(
                Masquerade(
                    source=place.block, exempt=self._exempt(place), mark=Mark(self._file.name, place.network.name)
                )
                for place in places
            ),
            forwards=tuple(forwards),
            containers=tuple(containers),
        )

    def choose_mtus(self, remembered: Remembered, report: Report) -> dict[str, int]:
        """The MTU of each network: what its containers have, else what fits the tunnels."""
        running: dict[str, int] = {}
        for name, spec in self._file.containers.items():
            if placed := remembered.containers.get(name):
                running.setdefault(spec.network, placed.container.nic.mtu)
        mtus = {name: running.get(name, self.mtu) for name in self._file.routed}
        for name, mtu in mtus.items():
            if mtu > self.mtu:
                message = f"the tunnels carry {self.mtu}, but its containers run with MTU {mtu}"
                hint = f"raise the underlay's MTU to {mtu + self.ways.overhead()} where it is lower"
                report.add(self._file.place("networks", name), f"networks.{name}", message, hint=hint)
        return mtus

    def _bridge(self, place: Place, mtus: Mapping[str, int]) -> Bridge:
        mark = Mark(self._file.name, place.network.name)
        return Bridge(name=place.bridge, mtu=mtus[place.network.name], mark=mark)

    def _exempt(self, place: Place) -> tuple[IPv4Network, ...]:
        """Where packets of *place* keep their source: every block, and the hosts its network is tunnelled to."""
        name = place.network.name
        if name not in self._exempted:
            self._exempted[name] = tuple(sorted({*self._blocks, *map(IPv4Network, place.network.tunnel_to)}))
        return self._exempted[name]

    def _far_ends(self, host: str) -> list[str]:
        """The hosts that *host* has a tunnel to, in the file's order."""
        if host in self.places:
            return [far for far in self._involved if far != host and (far in self.places or far in self._peers[host])]
        return [far for far in self.places if host in self._peers[far]]

    def _tunnel_name(self, host: str, far: str) -> str:
        if self._paired and self._file.hosts[far].address is None:
            return make_link_name(f"t{far}", kind="ipip")  # until it is looked up, its name stands for its address
        return make_ipip_name(self._ends[host], self._ends[far] if self._paired else None)

    def _tunnels(self, host: str, routes: Iterable[Route]) -> Iterable[Link]:
        methods = {far: self.ways.method(host, far) for far in self._far_ends(host)}
        ipips = [far for far, method in methods.items() if method == IPIP]
        if not self._paired:
            mtu = min(map(self.ways.underlay_mtu, self._involved)) - OVERHEADS[IPIP]
            found = [self._tunnel(host, name, None, mtu) for name in {self._tunnel_name(host, far) for far in ipips}]
        else:
            found = [
                self._tunnel(host, self._tunnel_name(host, far), self._ends[far], self.ways.room(host, far))
                for far in ipips
            ]
        return [*found, *([self._vxlan(host)] if VXLAN in methods.values() else [])]

    def _tunnel(self, host: str, name: str, remote: IPv4Address | None, mtu: int) -> Link:
        return Ipip(name=name, local=self._ends[host], remote=remote, mtu=mtu, mark=Mark(HOST, name))

    def _vxlan(self, host: str) -> Link:
        """All clusters share it: what is said of it follows from the host alone."""
        name, mtu = make_vxlan_name(), self.ways.underlay_mtu(host) - OVERHEADS[VXLAN]
        return Vxlan(name=name, local=self._ends[host], mtu=mtu, mark=Mark(HOST, name))

    def _routes(self, host: str) -> Iterable[Route]:
        end = self._ends[host]
        own = next(iter(self.places[host].values())).gateway if host in self.places else None
        ways = {far: self._way(host, far) for far in self._far_ends(host)}
        for far, block, tunnel_to in self._flat:
            # A host that is tunnelled to is known by its underlay address: the far end's rules lead back to it.
            src = end if tunnel_to and end in tunnel_to else own
            if src is not None and far != host:
                dev, via, encap = ways[far]
                yield Route(dst=block, dev=dev, via=via, src=src, encap=encap)
        for far in self._peers.get(host, ()):
            dev, via, encap = ways[far]
            yield Route(dst=IPv4Network(self._ends[far]), dev=dev, via=via, table=TUNNEL_TABLE, encap=encap)

    def _way(self, host: str, far: str) -> tuple[str, IPv4Address | None, IPv4Address | None]:
        """What routes from *host* to *far* have: dev, via and encap."""
        end = self._ends[far]
        method = self.ways.method(host, far)
        if method == DIRECT:
            return "", end, None
        if method == VXLAN:
            return make_vxlan_name(), None, end
        return self._tunnel_name(host, far), None, None if self._paired else end

    def _rules(self, host: str) -> Iterable[Rule]:
        for place in self.places.get(host, {}).values():
            for peer in place.network.tunnel_to:
                if peer != self._ends[host]:
                    yield Rule(
                        priority=TUNNEL_RULE_PRIORITY,
                        src=place.block,
                        dst=IPv4Network((peer, _WHOLE)),
                        table=TUNNEL_TABLE,
                    )


def choose_bridges(file: ClusterFile, facts: Facts | None, remembered: Remembered) -> dict[tuple[str, str], str]:
    """The bridge of each routed network on each host where it has containers, by host and network.

    The one that running containers are on; else lxcbr0 where nothing on the host has it, else one made from cluster
    and network.
    """
    wanted: dict[tuple[str, str], str] = {}
    for name, spec in file.containers.items():
        if spec.network not in file.routed:
            continue
        placed = remembered.containers.get(name)
        known = placed.container.nic.bridge if placed and placed.host == spec.host else ""
        wanted[spec.host, spec.network] = wanted.get((spec.host, spec.network)) or known
    order = {name: index for index, name in enumerate(file.networks)}
    taken = {(host, bridge) for (host, _), bridge in wanted.items() if bridge}
    if facts:
        taken |= {(host, name) for host, found in facts.hosts.items() for name in found.taken}
    for host, network in sorted(wanted, key=lambda key: order[key[1]]):
        if not wanted[host, network]:
            free = (host, FIRST_BRIDGE) not in taken
            wanted[host, network] = FIRST_BRIDGE if free else make_routed_bridge_name(file.name, network)
            taken.add((host, wanted[host, network]))
    return {key: wanted[key] for key in sorted(wanted, key=lambda key: order[key[1]])}


def make_forwards(
    file: ClusterFile,
    facts: Facts | None,
    remembered: Remembered,
    ends: Mapping[str, IPv4Address],
    addresses: Mapping[str, IPv4Address],
) -> dict[str, list[Forward]]:
    """The forwarded SSH ports of each host: from 1222 up, in the file's order, without those that others have.

    A container that has one keeps it.
    """
    found: dict[str, list[Forward]] = {}
    wanted = {name: spec for name, spec in file.containers.items() if spec.forward_ssh}
    taken = {spec.host: set[int]() for spec in wanted.values()}
    for host, ports in taken.items():
        if facts and host in facts.hosts:
            ports |= facts.hosts[host].taken_ports
    kept = {name: port for name, port in remembered.ports.items() if _is_kept(name, wanted, remembered)}
    for name, port in kept.items():
        taken[wanted[name].host].add(port)
    for name, spec in wanted.items():
        port = kept.get(name) or next(port for port in count(FIRST_FORWARD) if port not in taken[spec.host])
        taken[spec.host].add(port)
        found.setdefault(spec.host, []).append(
            Forward(
                address=ends[spec.host],
                port=port,
                to=addresses[name],
                to_port=SSH_PORT,
                mark=Mark(file.name, name),
            )
        )
    return found


def _is_kept(name: str, wanted: Mapping[str, ContainerSpec], remembered: Remembered) -> bool:
    """Whether the container has its port on the host where it is to be."""
    placed = remembered.containers.get(name)
    return name in wanted and placed is not None and placed.host == wanted[name].host
