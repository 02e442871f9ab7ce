"""A cluster as somebody wants it: what every kind of cluster file is read into. Frozen, without I/O.

A loader makes it and coordinator.config.check looks at it as a whole. `places` remembers where in the file each
thing stands, for whoever finds a mistake later; two files that differ only in that are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from coordinator.config.problem import ConfigError, Place, Problem
from coordinator.nova.roles import holds_controller_role
from coordinator.nova.urls import PORTS, PUBLIC_APIS, holding_role
from proto.errors import Code
from proto.model import Limits

#: Those of coordinator.nova; a test compares the two.
VIRT_DRIVERS = ("fake", "fake-small", "fake-medium")
API_WORKERS_MAX = 64
#: What computes take of memory (docs/density.md).
DENSITIES = ("normal", "high")
#: How packets get from one host's block to another's. `auto` is decided for each pair by probing.
OVERLAYS = ("ipip", "direct", "vxlan", "auto")
#: Keys that lead to a thing in the file: ("containers", "ubuntu011", "address").
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A physical host: where its agent answers, and the link that carries tagged frames ("" where it has none).

    `address` is None for a name that nobody has looked up yet. `is_peer`: it is only the far end of tunnels, and has
    no containers.
    """

    name: str
    address: IPv4Address | None
    trunk: str = ""
    is_peer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBox:
    """The gateway: where it answers, its trunk, and the link to the world outside."""

    address: IPv4Address
    trunk: str
    uplink: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VlanNetwork:
    """A network that is one tagged VLAN. `gateway` is NATBox's address in it; without one it is an island.

    `external` is the source of what leaves it, and where its publications are; without one that is the uplink's own.
    """

    name: str
    vid: int
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    external: IPv4Address | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def room(self) -> int:
        """How many containers have an address in it: all but network, broadcast and gateway."""
        return self.subnet.num_addresses - 2 - (self.gateway is not None)

    def subnet_on(self, host: str) -> IPv4Network:
        """The subnet that its containers on *host* are in: the same on every host."""
        return self.subnet

    def gateway_on(self, host: str) -> IPv4Address | None:
        """What its containers on *host* send to what is outside."""
        return self.gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedNetwork:
    """A network whose hosts each have a block of addresses, joined by tunnels (`overlay` is one of OVERLAYS).

    A block's first address is the bridge's and the containers' gateway; theirs begin at the second. `tunnel_to` are
    underlay addresses of hosts that reach the containers, and are reached by them, whether they have any or not.
    """

    name: str
    blocks: Mapping[str, IPv4Network]
    overlay: str = OVERLAYS[0]
    tunnel_to: tuple[IPv4Address, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", MappingProxyType(dict(self.blocks)))

    @property
    def room(self) -> int:
        """How many containers each host has addresses for: all but network, broadcast and bridge."""
        return next(iter(self.blocks.values())).num_addresses - 3

    def subnet_on(self, host: str) -> IPv4Network:
        """The block of *host*."""
        return self.blocks[host]

    def gateway_on(self, host: str) -> IPv4Address:
        """The bridge's address on *host*."""
        return self.blocks[host].network_address + 1


Network = VlanNetwork | RoutedNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Devstack:
    """A DevStack to be run in a container: what to clone, and the lines of its local.conf.

    In the lines, CONTROLLER_TOKEN stands for the controller's address where `is_node`.
    """

    repo: str
    branch: str
    lines: tuple[str, ...]
    is_node: bool

    def render(self, controller: IPv4Address) -> str:
        """The text of local.conf."""
        text = "".join(f"{line}\n" for line in self.lines)
        return text.replace(CONTROLLER_TOKEN, str(controller)) if self.is_node else text


CONTROLLER_TOKEN = "{controller_ip}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port that leads to `to_port` of *container*: of the external address of that container's network.

    `protocol` is one of proto.model.gateway.PROTOCOLS. `path` leads to it in the file.
    """

    port: int
    container: str
    to_port: int
    protocol: str = "tcp"
    path: Path = field(default=("publish",), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedApi:
    """The cluster's own APIs (nova.urls.PUBLIC_APIS): at their usual ports, or at `base_port` and the next ones."""

    base_port: int | None = None
    path: Path = field(default=("publish",), compare=False)

    def port(self, service: str) -> int:
        """Where the API of *service*, one of PUBLIC_APIS, is published."""
        return PORTS[service] if self.base_port is None else self.base_port + PUBLIC_APIS.index(service)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container: `address` is None where compile is to choose one. `roles` are expanded (nova.roles.ROLES).

    `clone_of` is "" or the container of the same host that this one is cloned from once that one is installed.
    `ssh`: it lets root in by SSH with the keys of its host's authorized_keys. `forward_ssh`: the host forwards a port
    of its own, 1222 or the next free one, to its SSH. With `devstack` its stack.sh sets it up, and nobody else.
    `external`: an address at NATBox that is this container's alone, both ways.
    """

    name: str
    host: str
    network: str
    address: IPv4Address | None = None
    roles: tuple[str, ...]
    clone_of: str = ""
    ssh: bool = False
    forward_ssh: bool = False
    devstack: Devstack | None = None
    external: IPv4Address | None = None

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
    """One cluster. Mappings keep the file's order. `file` is what messages call it.

    `density` (of DENSITIES): `high` has the hosts' kernels merge the equal pages of computes.
    `ports` and `api` are what it publishes at NATBox; `publications` has both.
    `warnings` say what of the file has no effect and why; `obstacles` what stands against bringing it up, though it
    can be compiled: check_deployable() raises them.
    """

    name: str
    hosts: Mapping[str, Host]
    natbox: NatBox | None
    networks: Mapping[str, Network]
    containers: Mapping[str, ContainerSpec]
    nova: NovaOptions = NovaOptions()
    density: str = DENSITIES[0]
    ports: tuple[PublishedPort, ...] = ()
    api: PublishedApi | None = None
    file: str = field(default="", compare=False)
    places: Mapping[Path, Place] = field(default_factory=dict, compare=False, repr=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    obstacles: tuple[Problem, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for attribute in ("hosts", "networks", "containers", "places"):
            object.__setattr__(self, attribute, MappingProxyType(dict(getattr(self, attribute))))

    def place(self, *path: str) -> Place:
        """Where *path* stands in the file, or the nearest thing above it that has a place."""
        for length in range(len(path), -1, -1):
            if found := self.places.get(path[:length]):
                return found
        return Place(0, 0)

    @property
    def vlans(self) -> dict[str, VlanNetwork]:
        """The networks that are VLANs."""
        return {name: network for name, network in self.networks.items() if isinstance(network, VlanNetwork)}

    @property
    def has_nova(self) -> bool:
        """Whether caas sets nova up in it: not where stack.sh does everywhere."""
        return any(spec.devstack is None for spec in self.containers.values())

    def api_holder(self, service: str) -> ContainerSpec | None:
        """The container that serves *service* (of PUBLIC_APIS); None where no role says so."""
        role = str(holding_role(service))
        return next((spec for spec in self.containers.values() if role in spec.roles and not spec.devstack), None)

    @property
    def publications(self) -> tuple[PublishedPort, ...]:
        """Every published port, those of the APIs after the others."""
        found = list(self.ports)
        for service in PUBLIC_APIS if self.api else ():
            holder = self.api_holder(service)
            if self.api and holder:
                port = self.api.port(service)
                found.append(
                    PublishedPort(port=port, container=holder.name, to_port=PORTS[service], path=self.api.path)
                )
        return tuple(found)

    @property
    def routed(self) -> dict[str, RoutedNetwork]:
        """The networks that are routed."""
        return {name: network for name, network in self.networks.items() if isinstance(network, RoutedNetwork)}

    def check_deployable(self) -> None:
        """ConfigError (UNSUPPORTED) with every obstacle and every host of unknown address; nothing without these."""
        unknown = (self._unknown(host) for host in self.hosts.values() if host.address is None)
        if problems := (*self.obstacles, *unknown):
            raise ConfigError(problems, code=Code.UNSUPPORTED)

    def _unknown(self, host: Host) -> Problem:
        place = self.place("hosts", host.name)
        message = f"the address of host {host.name} is not known"
        hint = "write its address instead of its name, or let the coordinator's configuration name it (docs/rally.md)"
        return Problem(
            file=self.file, line=place.line, column=place.column, path=f"hosts.{host.name}", message=message, hint=hint
        )

    def host_at(self, address: IPv4Address) -> Host | None:
        """The host whose underlay address is *address*."""
        return next((host for host in self.hosts.values() if host.address == address), None)
