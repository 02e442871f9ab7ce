"""A kernel and an LXC that live in memory and fail when told to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from agent.core.doors import (
    ForeignLink,
    Inspection,
    Lack,
    NetworkThing,
    ObservedContainer,
    ObservedNetwork,
    Passage,
    Question,
    Search,
)
from proto.errors import CaasError, Code, invalid
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
    Nic,
    Route,
    Rule,
    Vlan,
    Vxlan,
)
from proto.names import make_lxc_name
from tests.support.faults import Faults

LINKS = (Bridge, Vlan, Ipip, Vxlan)


class Failing:
    """Fails the calls that were armed: ("create", "lxcbr100"). What was armed and not reached stays in `armed`.

    What several doors share in *faults* fails by number, too.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self.armed: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, str]] = []
        self.writes = 0
        self.faults = faults or Faults()

    def fail(self, verb: str, name: str) -> None:
        self.armed.add((verb, name))

    @contextmanager
    def write(self, verb: str, name: str) -> Iterator[None]:
        """Around the effect of one write. What the door refuses is refused before."""
        with self.faults.write(f"{verb} {name}"):
            self.calls.append((verb, name))
            self.writes += 1
            if (verb, name) in self.armed:
                self.armed.discard((verb, name))
                raise CaasError(Code.FAILED, f"{verb} {name}: simulated")
            yield


class FakeKernel(Failing):
    """KernelDoor in memory. What goes with a link in the kernel goes with it here.

    Ports of containers are links where a FakeContainers was given this kernel: not ours until they are marked.
    Otherwise any port can be marked.
    """

    def __init__(self, *, foreign: Sequence[ForeignLink] = (), faults: Faults | None = None) -> None:
        super().__init__(faults)
        self.things: dict[tuple[str, str], NetworkThing] = {}
        self.foreign = {link.name: link for link in foreign}
        self.marked: set[str] = set()
        self.adopted: set[str] = set()
        self.settled = 0
        self.has_ports = False
        self.able = Datapath(vlan="kernel")
        self.searches: list[Search] = []
        self.passages = Passage(on_link=False, heard=())

    def observe(self) -> ObservedNetwork:
        self.faults.look()

        def of(*kinds: type) -> tuple[NetworkThing, ...]:
            return tuple(thing for thing in self.things.values() if isinstance(thing, kinds))

        state = HostState(
            links=of(*LINKS),  # type: ignore[arg-type]
            addresses=of(Address),  # type: ignore[arg-type]
            routes=of(Route),  # type: ignore[arg-type]
            rules=of(Rule),  # type: ignore[arg-type]
            masquerades=of(Masquerade),  # type: ignore[arg-type]
            forwards=of(Forward),  # type: ignore[arg-type]
        )
        return ObservedNetwork(state=state, foreign=dict(self.foreign))

    def create(self, thing: NetworkThing) -> None:
        with self.write("create", thing.name):
            self._check_free(thing)
            self._check_stands(thing)
            self.things[thing.kind, thing.name] = thing

    def _check_free(self, thing: NetworkThing) -> None:
        found = f"create {thing.kind} {thing.name}: the name is taken"
        if isinstance(thing, LINKS):
            if thing.name in self.foreign:
                raise CaasError(Code.NOT_OWNED, f"{found} by a link that is not ours", hint=f"ip link del {thing.name}")
            if self._link(thing.name):
                raise CaasError(Code.CONFLICT, found)
        elif (thing.kind, thing.name) in self.things:
            raise CaasError(Code.CONFLICT, found)

    def _check_stands(self, thing: NetworkThing) -> None:
        """What it stands on has to be there."""
        if isinstance(thing, Vlan):
            if not (self._link(thing.parent) or thing.parent in self.foreign):
                raise CaasError(Code.NOT_FOUND, f"vlan {thing.name}: its parent {thing.parent} does not exist")
            if thing.master and ("bridge", thing.master) not in self.things:
                raise CaasError(Code.NOT_FOUND, f"vlan {thing.name}: its bridge {thing.master} does not exist")
        on = _link_below(thing)
        if on and not (self._link(on) or on in self.foreign):
            raise CaasError(Code.NOT_FOUND, f"create {thing.kind} {thing.name}: link {on} does not exist")
        if isinstance(thing, Route) and thing.via and self._link(on):
            networks = [each.address.network for each in self.things.values() if isinstance(each, Address)]
            if not any(thing.via in network for network in networks):
                raise CaasError(Code.NOT_FOUND, f"create route {thing.name}: no link leads to the gateway {thing.via}")

    def _link(self, name: str) -> NetworkThing | None:
        return next((self.things[kind.kind, name] for kind in LINKS if (kind.kind, name) in self.things), None)

    def change(self, before: NetworkThing, after: NetworkThing) -> None:
        if (before.kind, before.name) != (after.kind, after.name):
            raise invalid(f"change {before.kind} {before.name}: it cannot become {after.kind} {after.name}")
        with self.write("change", after.name):
            if (after.kind, after.name) not in self.things:
                raise CaasError(Code.NOT_FOUND, f"change {after.kind} {after.name}: there is no such {after.kind}")
            self._check_stands(after)
            self.things[after.kind, after.name] = after

    def delete(self, thing: NetworkThing) -> None:
        with self.write("delete", thing.name):
            seen = self._link(thing.name) if isinstance(thing, LINKS) else None
            if (isinstance(thing, LINKS) and thing.name in self.foreign) or (seen and seen.kind != thing.kind):
                raise CaasError(Code.NOT_OWNED, f"{thing.kind} {thing.name}: what has that name is not ours")
            if self.things.pop((thing.kind, thing.name), None) and isinstance(thing, LINKS):
                self._drop_dependents(thing.name)
            if isinstance(thing, Address):
                for key, each in list(self.things.items()):
                    if isinstance(each, Route) and each.src == thing.address.ip:
                        del self.things[key]

    def _drop_dependents(self, link: str) -> None:
        """The kernel's own part of a deletion."""
        for key, thing in list(self.things.items()):
            if _link_below(thing) == link or (isinstance(thing, Vlan) and thing.parent == link):
                del self.things[key]
            elif isinstance(thing, Vlan) and thing.master == link:
                self.things[key] = replace(thing, master="")

    def add_port(self, nic: Nic) -> None:
        """A container was started."""
        if ("bridge", nic.bridge) not in self.things:
            raise CaasError(Code.FAILED, f"no bridge {nic.bridge}")
        self.foreign[nic.port] = ForeignLink(name=nic.port, kind="veth", mtu=nic.mtu, up=True)

    def remove_port(self, nic: Nic) -> None:
        """A container has ended."""
        self.foreign.pop(nic.port, None)
        self.marked.discard(nic.port)

    def sweep(self) -> None:
        """What belongs to a link goes with it here."""

    def set_port_mark(self, container: Container) -> None:
        port = container.nic.port
        if port in self.marked:
            return
        with self.write("mark", port):
            if self.has_ports and port not in self.foreign:
                raise CaasError(Code.NOT_FOUND, f"mark port {port} of container {container.name}: no such link")
            self.foreign.pop(port, None)
            self.marked.add(port)

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

    def settle_ports(self) -> None:
        self.settled += 1

    def taken_ports(self) -> Sequence[int]:
        return ()


def _link_below(thing: NetworkThing) -> str:
    """The link that *thing* is an address of, or a route by; or ""."""
    match thing:
        case Address():
            return thing.link
        case Route():
            return thing.dev
        case _:
            return ""


class FakeContainers(Failing):
    """ContainerDoor in memory. Ports of what runs are links of *kernel*, if given."""

    def __init__(self, *, kernel: FakeKernel | None = None, faults: Faults | None = None) -> None:
        super().__init__(faults)
        self.containers: dict[str, Container] = {}
        self.without_keys = ""
        self._kernel = kernel
        if kernel is not None:
            kernel.has_ports = True

    def keyless(self) -> str:
        return self.without_keys

    def observe(self) -> Sequence[ObservedContainer]:
        self.faults.look()
        return [
            ObservedContainer(container=container, pid=1000 if container.running else 0, memory_bytes=0)
            for container in list(self.containers.values())
        ]

    def inspect(self, questions: Sequence[Inspection]) -> Mapping[str, Any]:
        raise CaasError(Code.UNSUPPORTED, "what is in these containers only programs in them can tell")

    def create(self, container: Container) -> None:
        with self.write("create", container.name):
            if container.name in self.containers:
                raise CaasError(Code.CONFLICT, f"container {container.name} exists already")
            self._check_source(container)
            self.containers[container.name] = replace(container, running=False)

    def _check_source(self, container: Container) -> None:
        if container.clone_of:
            name = make_lxc_name(container.cluster, container.clone_of)
            source = self.containers.get(name)
            if source is None:
                raise CaasError(Code.NOT_FOUND, f"container {container.name}: there is no container {name} to clone")
            if source.image != container.image:
                words = f"its image is {container.image}, that of {name} {source.image}"
                raise CaasError(Code.CONFLICT, f"container {container.name}: {words}")

    def change(self, before: Container, after: Container) -> None:
        if before.name != after.name:
            raise invalid(f"container {before.name}: it cannot become {after.name}")
        seen = self._existing(after)
        kept = ("image", "clone_of", *(("nic",) if seen.running else ()))
        if changed := [name for name in kept if getattr(seen, name) != getattr(after, name)]:
            raise invalid(f"container {after.name}: {', '.join(changed)} cannot be changed")
        with self.write("change", after.name):
            self.containers[after.name] = replace(after, running=seen.running)

    def delete(self, container: Container) -> None:
        if container.name not in self.containers:
            return
        with self.write("delete", container.name):
            self._remove_port(self.containers.pop(container.name))

    def start(self, container: Container) -> None:
        if self._existing(container).running:
            return
        with self.write("start", container.name):
            seen = self.containers[container.name]
            if self._kernel is not None:
                self._kernel.add_port(seen.nic)
            self.containers[container.name] = replace(seen, running=True)

    def stop(self, container: Container) -> None:
        if not self._existing(container).running:
            return
        with self.write("stop", container.name):
            self._remove_port(self.containers[container.name])
            self.containers[container.name] = replace(self.containers[container.name], running=False)

    def _existing(self, container: Container) -> Container:
        self.faults.look()
        if container.name not in self.containers:
            raise CaasError(Code.NOT_FOUND, f"container {container.name} does not exist")
        return self.containers[container.name]

    def _remove_port(self, container: Container) -> None:
        if self._kernel is not None:
            self._kernel.remove_port(container.nic)

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


class FakeLeftovers:
    """LeftoverDoor that finds what it is told to have found, and notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.left: tuple[str, ...] = ()

    def remember(self) -> None:
        self.calls.append("remember")

    def find(self, cluster: str, *, is_last: bool) -> tuple[str, ...]:
        self.calls.append(f"find {cluster}{' last' if is_last else ''}")
        return self.left
