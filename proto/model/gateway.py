"""NATBox's table: which VLANs it serves, and who lives in them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from proto.errors import invalid
from proto.model.network import check_vid
from proto.names import check_cluster_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A container as NATBox knows it: nobody else in the VLAN may use its address, or send through NATBox."""

    address: ipaddress.IPv4Address
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One cluster network at NATBox: frames tagged *vid*, the subnet, and NATBox's own address in it."""

    kind: ClassVar[str] = "gateway"
    cluster: str
    network: str
    vid: int
    gateway: ipaddress.IPv4Interface
    neighbours: tuple[Neighbour, ...] = ()

    def __post_init__(self) -> None:
        check_cluster_name(self.cluster)
        check_vid(self.vid)
        for neighbour in self.neighbours:
            if neighbour.address not in self.gateway.network or neighbour.address == self.gateway.ip:
                raise invalid(f"{self.name}: neighbour {neighbour.address} is not one of {self.gateway.network}")

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
    """What passed NATBox for one VID since its entry was made. Drops are by reason ("spoofed source": 3)."""

    vid: int
    out_packets: int
    out_bytes: int
    in_packets: int
    in_bytes: int
    drops: tuple[tuple[str, int], ...]
