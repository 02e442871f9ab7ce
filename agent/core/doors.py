"""What the core asks of the two doors, the kernel's and LXC's. Fakes in tests implement the same.

Every call blocks; the RPC layer calls from worker threads. Every failure is a CaasError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Protocol

from agent.core.drift import Touch
from proto.model import (
    Address,
    Bridge,
    Container,
    Datapath,
    Finding,
    Forward,
    HostState,
    Ipip,
    Masquerade,
    Route,
    Rule,
    Vlan,
    Vxlan,
)
from proto.model.complaint import Complaint

NetworkThing = Bridge | Vlan | Ipip | Vxlan | Address | Route | Rule | Masquerade | Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLink:
    """A link without our mark: it may be a parent, or stand where one of ours should be."""

    name: str
    kind: str
    mtu: int
    up: bool
    addresses: tuple[IPv4Interface, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedNetwork:
    """What is ours in the kernel (state; containers empty) and the links that are not."""

    state: HostState
    foreign: Mapping[str, ForeignLink] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Something this machine cannot do, and the command that mends it."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to try, from the address *local*: the methods ("ipip", "vxlan") for each far end.

    All hosts try at once with one *nonce*, and for at most *seconds*.
    """

    local: IPv4Address
    nonce: bytes
    seconds: float
    fars: Mapping[IPv4Address, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A far end as seen from here: whether it is on a link of this host, and whose packets were heard from there."""

    on_link: bool
    heard: tuple[str, ...]


class KernelDoor(Protocol):
    """Links, addresses, routes, rules and nft of the network namespace the agent lives in."""

    @property
    def writes(self) -> int:
        """How many changing netlink, nft, tc, BPF and sysctl calls were made since the door was opened."""

    def observe(self) -> ObservedNetwork: ...

    def create(self, thing: NetworkThing) -> None:
        """Make *thing*, marked, up. CONFLICT or NOT_OWNED where the name is taken; UNSUPPORTED by the kernel."""

    def change(self, before: NetworkThing, after: NetworkThing) -> None:
        """Make *before* into *after* (same name) without taking it down where the kernel allows that."""

    def delete(self, thing: NetworkThing) -> None:
        """Remove *thing* if it is there and ours. Already gone is success; not ours is NOT_OWNED."""

    def sweep(self) -> None:
        """Remove what deletions that were cut off have left of links that are gone: rules, filters, entries of maps.
        What is in use stays, and nothing is written where nothing is left."""

    def set_port_mark(self, container: Container) -> None:
        """Mark the host's end of *container*'s veth pair."""

    def adopt_ports(self, containers: Iterable[Container]) -> None:
        """After a start: the door knows no ports yet, and *containers* may run with marked ones. What these gain by
        being known, the short way out of a tunnel, they have again."""

    def settle_ports(self) -> None:
        """Others may have changed what they filter: containers have the short way where nothing is in it."""

    def datapath(self) -> Datapath:
        """Which realisation of each device is used here: probed by trying, or forced."""

    def tunnel_drops(self) -> Mapping[str, int]:
        """How many packets the tunnels did not take, by reason."""

    def lacks(self, desired: HostState | None) -> Sequence[Lack]:
        """What a bring-up, of *desired* if given, would need of this host and is not there: devices, and that nothing
        of the host's own stands in the way of what is forwarded. Changes nothing that lasts."""

    def find_passages(self, search: Search) -> Mapping[IPv4Address, Passage]:
        """Try what passes to other hosts, which try at the same time. Changes nothing."""

    def live_routes(self) -> Sequence[IPv4Network]:
        """Destinations of the main table that are not ours and by no link of ours, the default route left out."""

    def taken_ports(self) -> Sequence[int]:
        """TCP ports of this host that something else has, ascending: it listens there on any address but a loopback
        one, or translates them, by nft's rules that are not ours. What is forwarded by ours is in `observe`."""


class DoctorDoor(Protocol):
    """Looks at the host itself."""

    def examine(self, desired: HostState) -> Sequence[Complaint]:
        """What is wrong with the host, for what *desired*, all clusters together, has here."""


class WatchDoor(Protocol):
    """Tells when others change the network."""

    def wait(self, seconds: float) -> Sequence[Touch]: ...
    def wake(self) -> None: ...


class MendDoor(Protocol):
    """Mends of the kernel's that are in no plan."""

    def raise_links(self, names: Sequence[str]) -> Sequence[str]:
        """Set those of *names* up that are down; which they were."""

    def find_stray(self, containers: Sequence[Container]) -> Mapping[str, str]:
        """Of *containers*, which run: what is wrong with their ports, by the container's name."""

    def join(self, container: Container) -> None:
        """Put the port of *container* on its bridge, up."""

    def rename(self, before: Bridge, name: str) -> None:
        """Give the bridge *before* its *name* back, with all that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one container is to ask: addresses. `mtu` is the largest packet that has to pass, headers included; so many
    others ask it as `askers` says."""

    hostname: str
    address: str
    mtu: int
    targets: tuple[str, ...]
    askers: int


class LookDoor(Protocol):
    """The kernel's door for looking only."""

    def burst(
        self, questions: Sequence[Question], pids: Mapping[str, int], *, settle: float, seconds: float
    ) -> dict[str, Any]:
        """Ask from the containers with these *pids*, by host name; the report is agent/kernel/burst_program.py's."""

    def examine(self, desired: HostState) -> Sequence[Finding]:
        """What in the kernel, beside what is ours, can keep the packets of *desired* from passing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedContainer:
    """A container of ours as LXC shows it. `pid` is 0 unless it runs."""

    container: Container
    pid: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is to be looked at in the running container *name*: absolute paths, systemd's services, HOST:PORTs."""

    name: str
    files: tuple[str, ...]
    units: tuple[str, ...]
    ports: tuple[str, ...]


class MergeDoor(Protocol):
    """The machine's merging of equal pages, which clusters with `density: high` want."""

    def hold(self) -> None:
        """Have it on for as long as this agent wants it. Writes nothing where it is on already."""

    def release(self) -> None:
        """This agent does not want it any more. The last one to say so puts back what was there before the first."""

    def lacks(self) -> Sequence[Lack]:
        """What the kernel would need for it and has not."""


class LeftoverDoor(Protocol):
    """Looks whether a removal has left anything; shares nothing with what removes."""

    def remember(self) -> None:
        """Before the first cluster of this host comes: note what no mark will tell of later."""

    def find(self, cluster: str, *, is_last: bool) -> tuple[str, ...]:
        """What is left of *cluster*, or, where it was the last one, of anything of ours; a line each for people."""


class ContainerDoor(Protocol):
    """The containers of one host (one lxcpath)."""

    @property
    def writes(self) -> int:
        """How many changing LXC calls and file writes were made since the door was opened."""

    def keyless(self) -> str:
        """The host's file of SSH keys where it is not there or empty, so that nobody is let in; else ""."""

    def observe(self) -> Sequence[ObservedContainer]:
        """Every container that carries our mark."""

    def inspect(self, questions: Sequence[Inspection]) -> Mapping[str, Any]:
        """What running containers show, by name, as coordinator/nova/inside/probe.py says it; where one cannot be seen,
        {"error": {"code", "message", "hint"}}. UNSUPPORTED where only programs in them can look."""

    def create(self, container: Container) -> None:
        """Make its root file system and configuration; does not start it. Refuses an image without a rootfs.

        A clone (clone_of) begins as what its source is at this moment, less the source's identity; the source may
        run, and goes on.
        """

    def change(self, before: Container, after: Container) -> None:
        """Change what can be changed while it runs: hosts, roles, SSH keys; `merge`, for its next start; its port, but
        for that it has to be stopped. INVALID for anything else."""

    def delete(self, container: Container) -> None:
        """Stop it if it runs, remove its files, mounts and cgroups. Already gone is success."""

    def start(self, container: Container) -> None:
        """Start it and wait until its init runs. Refuses when its rootfs is unset or absent."""

    def stop(self, container: Container) -> None:
        """Shut it down (30 s), then kill it. Already stopped is success."""

    def lacks(self, desired: Sequence[Container]) -> Sequence[Lack]:
        """What making and starting *desired* would need and is not there: images, disk, memory, inotify…"""
