"""A kernel and an LXC that live in memory and fail when told to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from agent.core.doors import (
    ForeignLink,
    Lack,
    NetworkThing,
    ObservedContainer,
    ObservedNetwork,
    Passage,
    Question,
    Search,
)
from proto.errors import CaasError, Code
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


class Failing:
    """Fails the calls that were armed: ("create", "lxcbr100"). What was armed and not reached stays in `armed`."""

    def __init__(self) -> None:
        self.armed: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, str]] = []
        self.writes = 0

    def fail(self, verb: str, name: str) -> None:
        self.armed.add((verb, name))

    def write(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        self.writes += 1
        if (verb, name) in self.armed:
            self.armed.discard((verb, name))
            raise CaasError(Code.FAILED, f"{verb} {name}: simulated")


class FakeKernel(Failing):
    """KernelDoor in memory. A port of a container appears as foreign until it is marked."""

    def __init__(self, *, foreign: Sequence[ForeignLink] = ()) -> None:
        super().__init__()
        self.things: dict[tuple[str, str], NetworkThing] = {}
        self.foreign = {link.name: link for link in foreign}
        self.marked: set[str] = set()
        self.adopted: set[str] = set()
        self.able = Datapath(vlan="kernel")
        self.searches: list[Search] = []
        self.passages = Passage(on_link=False, heard=())

    def observe(self) -> ObservedNetwork:
        def of(*kinds: type) -> tuple[NetworkThing, ...]:
            return tuple(thing for thing in self.things.values() if isinstance(thing, kinds))

        state = HostState(
            links=of(Bridge, Vlan, Ipip, Vxlan),  # type: ignore[arg-type]
            addresses=of(Address),  # type: ignore[arg-type]
            routes=of(Route),  # type: ignore[arg-type]
            rules=of(Rule),  # type: ignore[arg-type]
            masquerades=of(Masquerade),  # type: ignore[arg-type]
            forwards=of(Forward),  # type: ignore[arg-type]
        )
        return ObservedNetwork(state=state, foreign=dict(self.foreign))

    def create(self, thing: NetworkThing) -> None:
        self.write("create", thing.name)
        if self.things.setdefault((thing.kind, thing.name), thing) is not thing:
            raise CaasError(Code.CONFLICT, f"create {thing.name}: the name is taken")
        if isinstance(thing, Vlan) and thing.master and ("bridge", thing.master) not in self.things:
            del self.things[thing.kind, thing.name]
            raise CaasError(Code.NOT_FOUND, f"create {thing.name}: no bridge {thing.master}")

    def change(self, before: NetworkThing, after: NetworkThing) -> None:
        self.write("change", after.name)
        assert (before.kind, before.name) == (after.kind, after.name)
        self.things[after.kind, after.name] = after

    def delete(self, thing: NetworkThing) -> None:
        self.write("delete", thing.name)
        self.things.pop((thing.kind, thing.name), None)

    def set_port_mark(self, container: Container) -> None:
        self.write("mark", container.nic.port)
        self.foreign.pop(container.nic.port, None)
        self.marked.add(container.nic.port)

    def datapath(self) -> Datapath:
        return self.able

    def tunnel_drops(self) -> Mapping[str, int]:
        return {}

    def lacks(self, desired: HostState | None) -> Sequence[Lack]:
        return ()

    def find_passages(self, search: Search) -> Mapping[IPv4Address, Passage]:
        self.searches.append(search)
        return {far: replace(self.passages, heard=tuple(methods)) for far, methods in search.fars.items()}

    def live_routes(self) -> Sequence[IPv4Network]:
        return ()

    def adopt_ports(self, containers: Iterable[Container]) -> None:
        self.adopted = {container.name for container in containers}

    def taken_ports(self) -> Sequence[int]:
        return ()


class FakeContainers(Failing):
    """ContainerDoor in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.containers: dict[str, Container] = {}
        self.without_keys = ""

    def keyless(self) -> str:
        return self.without_keys

    def observe(self) -> Sequence[ObservedContainer]:
        return [
            ObservedContainer(container=container, pid=1000 if container.running else 0, memory_bytes=0)
            for container in self.containers.values()
        ]

    def create(self, container: Container) -> None:
        self.write("create", container.name)
        assert container.name not in self.containers
        self.containers[container.name] = replace(container, running=False)

    def change(self, before: Container, after: Container) -> None:
        self.write("change", after.name)
        self.containers[after.name] = replace(after, running=self.containers[after.name].running)

    def delete(self, container: Container) -> None:
        self.write("delete", container.name)
        self.containers.pop(container.name, None)

    def start(self, container: Container) -> None:
        self.write("start", container.name)
        self.containers[container.name] = replace(self.containers[container.name], running=True)

    def stop(self, container: Container) -> None:
        self.write("stop", container.name)
        if container.name in self.containers:
            self.containers[container.name] = replace(self.containers[container.name], running=False)

    def lacks(self, desired: Sequence[Container]) -> Sequence[Lack]:
        return ()


class FakeLook:
    """LookDoor in memory: everybody reaches everybody, unless their address is in `lost`."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.findings: list[Finding] = []

    def burst(
        self, questions: Sequence[Question], pids: Mapping[str, int], *, settle: float, seconds: float
    ) -> dict[str, Any]:
        facts = {"up": True, "mtu": 1500, "addresses": [], "routes": ["0.0.0.0/0"]}
        reports = {
            one.hostname: {
                "answered": {
                    target: {"reached": True, "full": True, "seconds": 0.001}
                    for target in one.targets
                    if target not in self.lost
                },
                "facts": facts,
            }
            for one in questions
        }
        return {
            "reports": reports,
            "failures": {},
            "reverse_path": 0,
            "neighbour_overflows": 0,
            "outer": [],
            "tagged": [],
        }

    def examine(self, desired: HostState) -> Sequence[Finding]:
        return self.findings
