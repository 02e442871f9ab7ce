"""NATBox's table: which VLANs it serves, and who lives in them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from proto.errors import invalid
from proto.model.network import check_vid
from proto.names import check_cluster_name

PROTOCOLS = ("tcp", "udp")
PORT_MAX = 65535
#: More than any conntrack table holds.
LIMIT_MAX = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A container as NATBox knows it: nobody else in the VLAN may use its address, or send through NATBox."""

    address: ipaddress.IPv4Address
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A port (1..65535) of the network's external address that leads to `to_port` of the container at `to`.

    The destination of packets is translated (RFC 3022, static NAPT). `protocol` is one of PROTOCOLS.
    """

    protocol: str
    port: int
    to: ipaddress.IPv4Address
    to_port: int

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise invalid(f"publication: protocol {self.protocol!r}: one of {', '.join(PROTOCOLS)}")
        for port in (self.port, self.to_port):
            if not 1 <= port <= PORT_MAX:
                raise invalid(f"publication: port {port}: 1..{PORT_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAddress:
    """An external address that is one container's, all protocols, both ways (RFC 3022, basic NAT)."""

    external: ipaddress.IPv4Address
    address: ipaddress.IPv4Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many connections a network may have at a time, and begin per second; 0 is NATBox's own choice."""

    connections: int = 0
    connections_per_second: int = 0

    def __post_init__(self) -> None:
        for number in (self.connections, self.connections_per_second):
            if not 0 <= number <= LIMIT_MAX:
                raise invalid(f"limits: {number}: 0..{LIMIT_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One cluster network at NATBox: frames tagged *vid*, the subnet, and NATBox's own address in it.

    What leaves it has the source `external`, or the uplink's own address where that is None; there are its
    publications, too. A container with an address of its own is not behind `external`.
    """

    kind: ClassVar[str] = "gateway"
    cluster: str
    network: str
    vid: int
    gateway: ipaddress.IPv4Interface
    neighbours: tuple[Neighbour, ...] = ()
    external: ipaddress.IPv4Address | None = None
    publications: tuple[Publication, ...] = ()
    own_addresses: tuple[OwnAddress, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        check_cluster_name(self.cluster)
        check_vid(self.vid)
        self._check_external()
        for neighbour in self.neighbours:
            if neighbour.address not in self.gateway.network or neighbour.address == self.gateway.ip:
                raise invalid(f"{self.name}: neighbour {neighbour.address} is not one of {self.gateway.network}")

    def _check_external(self) -> None:
        known = {neighbour.address for neighbour in self.neighbours}
        for inside in (*(one.to for one in self.publications), *(one.address for one in self.own_addresses)):
            if inside not in known:
                raise invalid(f"{self.name}: {inside} is published, and no container has it")
        doors = [(one.protocol, one.port) for one in self.publications]
        outside = [one.external for one in self.own_addresses]
        if self.external is not None:
            outside.append(self.external)
        for what in (doors, outside, [one.address for one in self.own_addresses]):
            if len(set(what)) != len(what):
                raise invalid(f"{self.name}: a port or an address is published twice")

    @property
    def name(self) -> str:
        return f"{self.cluster}/{self.network}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTable:
    """One cluster's whole desired state at NATBox, with its generation (1, 2, …)."""

    cluster: str
    generation: int
    gateways: tuple[Gateway, ...] = ()

    def __post_init__(self) -> None:
        check_cluster_name(self.cluster)
        if self.generation < 1:
            raise invalid(f"{self.cluster} at NATBox: generation {self.generation} is below 1")
        vids = [gateway.vid for gateway in self.gateways]
        if len(set(vids)) != len(vids) or any(gateway.cluster != self.cluster for gateway in self.gateways):
            raise invalid(f"{self.cluster} at NATBox: a VID twice, or another cluster's network")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPath:
    """What NATBox's packets need whatever the number of clusters: the programs on *trunk*, rules, one route."""

    kind: ClassVar[str] = "datapath"
    trunk: str
    uplink: str

    @property
    def name(self) -> str:
        return f"{self.trunk} to {self.uplink}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCounters:
    """What passed NATBox for one VID since its entry was made. Drops are by reason ("spoofed source": 3).

    `connections` are those that are open now, `connections_max` how many it may have.
    """

    vid: int
    out_packets: int
    out_bytes: int
    in_packets: int
    in_bytes: int
    drops: tuple[tuple[str, int], ...]
    connections: int = 0
    connections_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTotals:
    """NATBox as a whole: drops of no cluster, by reason, and how full the kernel's table of connections is."""

    drops: tuple[tuple[str, int], ...] = ()
    connections: int = 0
    connections_max: int = 0
