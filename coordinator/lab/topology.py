"""What a lab consists of: machines with NICs, switches between them, wires. Frozen, no I/O.

Construction checks what one object can know; `topology_file` checks what only the whole can.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from proto.errors import CaasError, Code, invalid
from proto.model import check_mtu
from proto.names import check_hostname, check_ifname, make_link_name

MTU_DEFAULT = 1500
NATBOX, SECOND_NATBOX = "natbox", "natbox2"
AGENT_PORT = 7443
NATBOX_PORT = 7444


class Role(enum.Enum):
    """What a machine is for: a host has an agent, NATBox its daemon, a router forwards, a station only answers."""

    HOST = "host"
    NATBOX = "natbox"
    ROUTER = "router"
    STATION = "station"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A bridge in a namespace of its own, all of whose ports have *mtu* bytes."""

    name: str
    mtu: int = MTU_DEFAULT

    def __post_init__(self) -> None:
        check_hostname(self.name)
        check_mtu(self.mtu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A NIC, plugged into *switch* or, where that is "", wired to *wire*, a (machine, NIC) pair."""

    name: str
    mtu: int
    switch: str = ""
    wire: tuple[str, str] = ("", "")
    address: ipaddress.IPv4Interface | None = None

    def __post_init__(self) -> None:
        check_ifname(self.name)
        check_mtu(self.mtu)
        if self.name == "lo":
            raise invalid("NIC lo: that is every machine's loopback")
        if bool(self.switch) == any(self.wire):
            raise invalid(f"NIC {self.name}: it needs either a switch or a wire")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A namespace that plays a whole machine. `trunk` and `uplink` are NIC names, set on NATBox only.

    `onlink` is the NIC of a gateway that is reached without an address: of two NATBoxes one has that of the uplink.
    """

    name: str
    role: Role
    nics: tuple[Nic, ...]
    routes: tuple[tuple[ipaddress.IPv4Network, ipaddress.IPv4Address], ...] = ()
    trunk: str = ""
    uplink: str = ""
    onlink: str = ""

    def __post_init__(self) -> None:
        check_hostname(self.name)

    @property
    def management(self) -> ipaddress.IPv4Address | None:
        """The address of the first NIC that has one: where its daemon listens."""
        return next((nic.address.ip for nic in self.nics if nic.address is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A whole lab, and the host that the coordinator runs on."""

    coordinator: str
    switches: Mapping[str, Switch] = field(default_factory=dict)
    machines: Mapping[str, Machine] = field(default_factory=dict)

    @property
    def natboxes(self) -> tuple[Machine, ...]:
        """None, one or two."""
        return tuple(machine for machine in self.machines.values() if machine.role is Role.NATBOX)

    def machine(self, name: str) -> Machine:
        """The machine called *name*, else NOT_FOUND."""
        try:
            return self.machines[name]
        except KeyError:
            raise CaasError(Code.NOT_FOUND, f"machine {name} is not in this lab") from None

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The names of everything that gets a namespace: switches first, so that NICs find their ports' place."""
        return (*self.switches, *self.machines)


def make_switch_port_name(machine: str, nic: str) -> str:
    """The switch's end of a NIC's cable: `MACHINE.NIC` where it fits."""
    return make_link_name(f"{machine}.{nic}", kind="veth")
