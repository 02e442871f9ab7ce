"""One host in memory whose agent can be killed, and what is done to it in tests/unit/agent/test_faults.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from agent.confirming import RETRY, Unconfirmed
from agent.core.apply import plan_cluster
from agent.core.doors import NetworkThing
from agent.host import Host
from proto.marks import HOST, Mark
from proto.model import (
    Address,
    Bridge,
    ClusterHost,
    Container,
    Forward,
    HostEntry,
    HostState,
    Masquerade,
    Plan,
    Route,
    Vxlan,
)
from tests.support.clock import FakeClock
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.faults import Faults, FaultyStates
from tests.support.things import TRUNK, make_bridge, make_container, make_desired, make_state, make_tunnelled, make_vlan

Run = Callable[[Host], object]
WITHIN = 30.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All that a host has of ours, and what its agent has saved."""

    things: frozenset[NetworkThing]
    containers: frozenset[Container]
    ports: frozenset[str]
    saved: frozenset[ClusterHost]
    waiting: frozenset[tuple[str, int]] = frozenset()

    def without(self, names: set[str]) -> Shape:
        """The same without the containers with these names, which are not to be made again either."""

        def rest(state: HostState) -> HostState:
            return replace(state, containers=tuple(one for one in state.containers if one.name not in names))

        return replace(
            self,
            containers=frozenset(one for one in self.containers if one.name not in names),
            ports=self.ports - {one.nic.port for one in self.containers if one.name in names},
            saved=frozenset(replace(one, state=rest(one.state)) for one in self.saved),
        )


class Machine:
    """A host: fake doors, what is saved, and the agent that is there at the moment."""

    def __init__(self) -> None:
        self.faults, self.clock = Faults(), FakeClock()
        self._saved: dict[str, ClusterHost] = {}
        self._removed: dict[str, int] = {}
        self._unconfirmed: dict[str, Unconfirmed] = {}
        self.kernel = FakeKernel(foreign=[TRUNK], faults=self.faults)
        self.containers = FakeContainers(kernel=self.kernel, faults=self.faults)
        self.host = self.start_agent()

    def start_agent(self) -> Host:
        """Another agent in place of the one before."""
        self.faults.revive()
        self.clock.restart()
        states = FaultyStates(self._saved, self._removed, self._unconfirmed, self.faults)
        self.host = Host("host1", self.kernel, self.containers, states, clock=self.clock)
        return self.host

    def lose_power(self) -> None:
        """What is on disk stays."""
        self.kernel.things.clear()
        self.kernel.marked.clear()
        self.kernel.foreign = {TRUNK.name: TRUNK}
        for name, container in self.containers.containers.items():
            self.containers.containers[name] = replace(container, running=False)

    def shape(self) -> Shape:
        return Shape(
            things=frozenset(self.kernel.things.values()),
            containers=frozenset(self.containers.containers.values()),
            ports=frozenset(self.kernel.marked),
            saved=frozenset(self._saved.values()),
            waiting=frozenset((one.cluster, one.generation) for one in self._unconfirmed.values()),
        )

    def pending(self) -> list[Plan]:
        """What the host still needs to be as saved: nothing, where each plan is empty."""
        plans = [
            plan_cluster(self.kernel, self.containers, one.cluster, one.state, others=self.host.others(one.cluster))
            for one in self.shape().saved
        ]
        return [plan for plan in plans if plan]

    def foreign(self) -> set[str]:
        """The links that are not ours."""
        return set(self.kernel.foreign)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is there before, and what is done."""

    before: tuple[ClusterHost, ...] = ()
    unconfirmed: ClusterHost | None = None
    run: Run
    cut_power: bool = False

    def prepare(self) -> Machine:
        machine = Machine()
        for desired in self.before:
            applying(desired)(machine.host)
        if self.unconfirmed is not None:
            applying(self.unconfirmed, confirm_within=WITHIN)(machine.host)
        if self.cut_power:
            machine.lose_power()
        machine.start_agent()
        if self.unconfirmed is not None and self.run is not restoring:
            machine.host.restore()
        machine.faults.done.clear()
        return machine


def applying(desired: ClusterHost, *, confirm_within: float = 0.0) -> Run:
    return lambda host: host.apply(
        desired, confirm_within=confirm_within, on_plan=lambda _: None, on_done=lambda _: None
    )


def destroying(cluster: str, *, generation: int = 0) -> Run:
    return lambda host: host.destroy(
        cluster, generation=generation, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None
    )


def restoring(host: Host) -> None:
    host.restore()


def confirming(cluster: str, generation: int) -> Run:
    return lambda host: host.confirm(cluster, generation, hold=False)


def waiting(host: Host) -> None:
    """Nobody confirms; what fails is tried again after a while."""
    clock = host._clock
    assert isinstance(clock, FakeClock)
    clock.advance(WITHIN + 3 * RETRY)


def make_routed(*containers: Container, cluster: str = "demo", number: int = 1, generation: int = 1) -> ClusterHost:
    """A cluster with a routed network: a bridge with an address, every kind of way to others, translation."""
    bridge = f"lxcbr-{cluster}"
    block, mark = IPv4Network(f"10.20.{number}.0/24"), Mark(cluster, "cluster")
    gateway = IPv4Interface(f"10.20.{number}.1/24")
    placed = tuple(replace(one, nic=replace(one.nic, bridge=bridge)) for one in containers)
    forwards = tuple(
        Forward(
            address=IPv4Address("192.0.2.100"),
            port=1000 * number + index,
            to=one.nic.address.ip,
            to_port=22,
            mark=one.mark,
        )
        for index, one in enumerate(placed)
    )
    vxlan = Vxlan(name="vxlans", local=IPv4Address("192.0.2.100"), mtu=1450, mark=Mark(HOST, "vxlans"))
    far = IPv4Address("192.0.2.9")
    state = HostState(
        links=(Bridge(name=bridge, mtu=1480, mark=mark), vxlan),
        addresses=(Address(link=bridge, address=gateway),),
        routes=(
            Route(dst=IPv4Network("10.20.9.0/24"), dev="vxlans", encap=far),
            Route(dst=IPv4Network(f"10.21.{number}.0/24"), dev="", via=IPv4Address("192.0.2.8")),
        ),
        masquerades=(Masquerade(source=block, exempt=(IPv4Network("10.20.0.0/16"),), mark=mark),),
        forwards=forwards,
        containers=placed,
    )
    state = state.union(make_tunnelled(1)).union(make_tunnelled(1 + number))
    return ClusterHost(cluster=cluster, host="host1", generation=generation, state=state)


ONE, TWO, THREE = (make_container(f"c{number}", number=number) for number in (11, 12, 13))
CLONES = tuple(replace(one, clone_of="c11") for one in (TWO, THREE))
BLUE = make_container("blue1", number=60, cluster="blue", vid=200)
DEMO = make_desired(ONE, TWO)
BESIDE = make_desired(BLUE, cluster="blue", vid=200)
ROUTED = make_routed(ONE, TWO)


def _next(state: HostState) -> ClusterHost:
    return ClusterHost(cluster="demo", host="host1", generation=2, state=state)


def _narrower() -> HostState:
    """Another MTU everywhere: links are changed as they are, containers are restarted."""
    narrow = tuple(replace(one, nic=replace(one.nic, mtu=1400)) for one in (ONE, TWO))
    return make_state(*narrow, mtu=1400)


def _renamed() -> HostState:
    """Other hosts, roles and keys: nothing is restarted; one is to stop."""
    entry = HostEntry(address=IPv4Address("192.168.10.99"), names=("more",))
    return make_state(
        replace(ONE, hosts=(*ONE.hosts, entry), ssh=True, roles=("api",)), replace(TWO, running=False, roles=())
    )


def _other_vid() -> HostState:
    """The vlan's name with another VID: it is replaced."""
    return replace(make_state(ONE, TWO), links=(make_bridge(), replace(make_vlan(), vid=101)))


SCENARIOS = {
    "first VLAN cluster": Scenario(before=(BESIDE,), run=applying(DEMO)),
    "first routed cluster": Scenario(before=(BESIDE,), run=applying(ROUTED)),
    "clones": Scenario(run=applying(make_desired(*CLONES, ONE))),
    "another MTU": Scenario(before=(DEMO,), run=applying(_next(_narrower()))),
    "changes without a restart": Scenario(before=(DEMO,), run=applying(_next(_renamed()))),
    "another VID": Scenario(before=(DEMO,), run=applying(_next(_other_vid()))),
    "more containers": Scenario(before=(DEMO,), run=applying(_next(make_state(ONE, TWO, *CLONES[1:])))),
    "fewer containers": Scenario(before=(BESIDE, DEMO), run=applying(_next(make_state(ONE)))),
    "one instead of another": Scenario(before=(DEMO,), run=applying(_next(make_state(ONE, THREE)))),
    "from VLAN to routed": Scenario(before=(DEMO,), run=applying(_next(ROUTED.state))),
    "a second cluster shares a tunnel": Scenario(
        before=(ROUTED,), run=applying(make_routed(BLUE, cluster="blue", number=2))
    ),
    "destroy": Scenario(before=(BESIDE, DEMO), run=destroying("demo")),
    "destroy at a generation": Scenario(before=(BESIDE, DEMO), run=destroying("demo", generation=9)),
    "destroy a routed one": Scenario(before=(ROUTED,), run=destroying("demo")),
    "destroy one that shares": Scenario(
        before=(ROUTED, make_routed(BLUE, cluster="blue", number=2)), run=destroying("blue")
    ),
    "a change that is to be confirmed": Scenario(
        before=(DEMO,), run=applying(_next(_other_vid()), confirm_within=30.0)
    ),
    "a change that follows one that waits": Scenario(
        before=(DEMO,),
        unconfirmed=_next(_other_vid()),
        run=applying(replace(_next(ROUTED.state), generation=3), confirm_within=WITHIN),
    ),
    "a change is confirmed": Scenario(before=(DEMO,), unconfirmed=_next(_other_vid()), run=confirming("demo", 2)),
    "a change is taken back": Scenario(before=(BESIDE, DEMO), unconfirmed=_next(_other_vid()), run=waiting),
    "a first change is taken back": Scenario(before=(BESIDE,), unconfirmed=ROUTED, run=waiting),
    "destroy what waits": Scenario(
        before=(DEMO,), unconfirmed=_next(_other_vid()), run=destroying("demo", generation=9)
    ),
    "restore after the power was lost": Scenario(before=(ROUTED, BESIDE), run=restoring, cut_power=True),
}
