"""A cluster as somebody wants it: what every kind of cluster file is read into. Frozen, without I/O.

A loader makes it and coordinator.config.check looks at it as a whole. `places` remembers where in the file each
thing stands, for whoever finds a mistake later; two files that differ only in that are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from coordinator.config.problem import Place
from coordinator.nova.roles import holds_controller_role

#: Those of coordinator.nova; a test compares the two.
VIRT_DRIVERS = ("fake", "fake-small", "fake-medium")
API_WORKERS_MAX = 64
#: Keys that lead to a thing in the file: ("containers", "ubuntu011", "address").
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A physical host: where its agent answers, and the link that carries tagged frames ("" where it has none)."""

    name: str
    address: IPv4Address
    trunk: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBox:
    """The gateway: where it answers, its trunk, and the link to the world outside."""

    address: IPv4Address
    trunk: str
    uplink: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VlanNetwork:
    """A network that is one tagged VLAN. `gateway` is NATBox's address in it; without one it is an island."""

    name: str
    vid: int
    subnet: IPv4Network
    gateway: IPv4Address | None = None

    @property
    def room(self) -> int:
        """How many containers have an address in it: all but network, broadcast and gateway."""
        return self.subnet.num_addresses - 2 - (self.gateway is not None)


#: Routed networks (overlay) will be the second kind.
Network = VlanNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container: `address` is None where compile is to choose one. `roles` are expanded (nova.roles.ROLES)."""

    name: str
    host: str
    network: str
    address: IPv4Address | None = None
    roles: tuple[str, ...]

    @property
    def is_controller(self) -> bool:
        """Whether it holds any role but compute."""
        return holds_controller_role(self.roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class NovaOptions:
    """How nova is set up. `virt_driver` is one of VIRT_DRIVERS; `api_workers` (1..64) is processes of each API."""

    virt_driver: str = VIRT_DRIVERS[0]
    region: str = "RegionOne"
    api_workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """One cluster. Mappings keep the file's order. `file` is what messages call it."""

    name: str
    hosts: Mapping[str, Host]
    natbox: NatBox | None
    networks: Mapping[str, Network]
    containers: Mapping[str, ContainerSpec]
    nova: NovaOptions = NovaOptions()
    file: str = field(default="", compare=False)
    places: Mapping[Path, Place] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for attribute in ("hosts", "networks", "containers", "places"):
            object.__setattr__(self, attribute, MappingProxyType(dict(getattr(self, attribute))))

    def place(self, *path: str) -> Place:
        """Where *path* stands in the file, or the nearest thing above it that has a place."""
        for length in range(len(path), -1, -1):
            if found := self.places.get(path[:length]):
                return found
        return Place(0, 0)
