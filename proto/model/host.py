"""What a host should have, or has: desired and observed are the same type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from proto.errors import CaasError, Code, invalid
from proto.model.container import Container
from proto.model.network import Address, Forward, Link, Masquerade, Route, Rule
from proto.names import check_cluster_name, check_host


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """Everything of ours on one host, in no particular order; names are unique within a kind."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    masquerades: tuple[Masquerade, ...] = ()
    forwards: tuple[Forward, ...] = ()
    containers: tuple[Container, ...] = ()

    def __post_init__(self) -> None:
        for attribute in fields(self):
            things = getattr(self, attribute.name)
            names = [thing.name for thing in things]
            if len(set(names)) != len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise invalid(f"{attribute.name}: named twice: {', '.join(twice)}")

    def union(self, other: HostState) -> HostState:
        """Both together. The same object in both counts once; two objects of one name are a CONFLICT."""
        merged = {}
        for attribute in fields(self):
            mine, theirs = getattr(self, attribute.name), getattr(other, attribute.name)
            by_name = {thing.name: thing for thing in mine}
            for thing in theirs:
                if by_name.setdefault(thing.name, thing) != thing:
                    raise CaasError(
                        Code.CONFLICT,
                        f"{thing.kind} {thing.name}: {_owner(by_name[thing.name])} and {_owner(thing)} want it "
                        "differently",
                        hint="choose another VID, network or name for one of the two clusters",
                    )
            merged[attribute.name] = tuple(by_name.values())
        return HostState(**merged)


def _owner(thing: object) -> str:
    return str(getattr(thing, "mark", "another cluster"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Datapath:
    """Which realisation of each kind of device a host uses: "kernel", "bpf", or "" where it can do neither.

    A vxlan is the kernel's own or none.
    """

    vlan: str = ""
    ipip: str = ""
    vxlan: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHost:
    """One cluster's whole desired state for one host, with its generation (1, 2, …).

    `host` is its name, with dots or without, or its address where it has no name. `taken_back`: the network is not
    that of this generation, which nobody confirmed, but of the one before (agent.confirming).
    """

    cluster: str
    host: str
    generation: int
    state: HostState = field(default_factory=HostState)
    taken_back: bool = False

    def __post_init__(self) -> None:
        check_cluster_name(self.cluster)
        check_host(self.host)
        if self.generation < 1:
            raise invalid(f"{self.cluster} on {self.host}: generation {self.generation} is below 1")
