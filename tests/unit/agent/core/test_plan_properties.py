"""Any plan: applied it gives what is desired, its inverse gives back what was, and nothing else is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.apply import perform
from agent.core.doors import ForeignLink
from agent.core.plan import make_inverse, make_plan
from proto.marks import HOST, Mark
from proto.model import (
    Action,
    Address,
    Bridge,
    Container,
    Forward,
    HostEntry,
    HostState,
    Ipip,
    Link,
    Masquerade,
    Route,
    Rule,
    Thing,
    Verb,
    Vlan,
    Vxlan,
)
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.things import TRUNK, make_container

OTHER = replace(TRUNK, name="eth2")
FOREIGN: dict[str, ForeignLink] = {TRUNK.name: TRUNK, OTHER.name: OTHER}
MARKS = st.sampled_from([Mark("demo", "cluster"), Mark(HOST, "shared")])
MTUS = st.sampled_from([1400, 1480])
ENDS = st.sampled_from([IPv4Address(f"192.0.2.{last}") for last in (1, 2)])
HERE = IPv4Address("192.0.2.100")


def subset(pool: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(pool), unique=True, max_size=len(pool))


@st.composite
def links_of(draw: st.DrawFn) -> list[Link]:
    """Any kinds under few names, so that one is often replaced by another; then vlans over and in them."""
    made: list[Link] = []
    for name in draw(subset(["l1", "l2", "l3"])):
        kind = draw(st.sampled_from(["bridge", "bridge", "ipip", "vxlan"]))
        if kind == "bridge":
            made.append(Bridge(name=name, mtu=draw(MTUS), mark=draw(MARKS)))
        elif kind == "ipip":
            remote = draw(st.none() | ENDS)
            made.append(Ipip(name=name, local=HERE, remote=remote, mtu=draw(MTUS), mark=draw(MARKS)))
        else:
            made.append(Vxlan(name=name, local=draw(ENDS), mtu=draw(MTUS), mark=draw(MARKS)))
    masters = ["", *(link.name for link in made if isinstance(link, Bridge))]
    for name in draw(subset(["v1", "l1"])):
        if name not in {link.name for link in made}:
            parent, vid = draw(st.sampled_from(["eth1", "eth2"])), draw(st.integers(100, 101))
            master = draw(st.sampled_from(masters))
            made.append(Vlan(name=name, parent=parent, vid=vid, mtu=draw(MTUS), master=master, mark=draw(MARKS)))
    return made


@st.composite
def states(draw: st.DrawFn) -> HostState:
    links = draw(links_of())
    names = [link.name for link in links]
    addresses = [
        Address(link=link, address=IPv4Interface(f"10.20.{last}.1/24"))
        for link in (names and draw(subset(names)))
        for last in draw(st.sets(st.integers(1, 2), min_size=1))
    ]
    sources = st.sampled_from([None, *(address.address.ip for address in addresses)])
    routes = {
        dst: Route(dst=IPv4Network(dst), dev=draw(st.sampled_from(names)), src=draw(sources), table=254)
        for dst in (names and draw(subset(["10.31.0.0/16", "10.32.0.0/16", "10.33.0.0/16"])))
    }
    direct = [Route(dst=IPv4Network(dst), dev="", via=draw(ENDS), table=254) for dst in draw(subset(["10.41.0.0/16"]))]
    bridges = [link.name for link in links if isinstance(link, Bridge)]
    return HostState(
        links=tuple(links),
        addresses=tuple(addresses),
        routes=(*routes.values(), *direct),
        rules=tuple(
            Rule(priority=int(priority), src=None, dst=None, table=draw(st.integers(5, 6)))
            for priority in draw(subset(["1000", "1001"]))
        ),
        masquerades=tuple(
            Masquerade(source=IPv4Network(source), exempt=(), mark=draw(MARKS))
            for source in draw(subset(["10.20.1.0/24", "10.20.2.0/24"]))
        ),
        forwards=tuple(
            Forward(address=HERE, port=int(port), to=draw(ENDS), to_port=22, mark=draw(MARKS))
            for port in draw(subset(["1001", "1002"]))
        ),
        containers=tuple(draw(containers_on(bridges))) if bridges else (),
    )


@st.composite
def containers_on(draw: st.DrawFn, bridges: Sequence[str]) -> list[Container]:
    """Some; a clone has its source before it."""
    made: list[Container] = []
    for number in sorted(draw(st.sets(st.integers(2, 5)))):
        one = make_container(f"c{number}", number=number, running=draw(st.booleans()))
        hosts = draw(st.sampled_from([(), (HostEntry(address=HERE, names=("far",)),)]))
        nic = replace(one.nic, bridge=draw(st.sampled_from(bridges)), mtu=draw(MTUS))
        source = draw(st.sampled_from(["", *(each.hostname for each in made)]))
        merge, ssh, roles = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([(), ("api",)]))
        made.append(replace(one, nic=nic, hosts=hosts, clone_of=source, merge=merge, ssh=ssh, roles=roles))
    return made


class Fakes:
    """A host that is as *state* says."""

    def __init__(self, state: HostState) -> None:
        self.kernel = FakeKernel(foreign=list(FOREIGN.values()))
        self.containers = FakeContainers(kernel=self.kernel)
        self.kernel.things = {(thing.kind, thing.name): thing for thing in things_of(state)}  # type: ignore[misc]
        self.containers.containers = {one.name: one for one in state.containers}
        self.kernel.marked = {one.nic.port for one in state.containers if one.running}

    def perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            perform(self.kernel, self.containers, action)

    def state(self) -> HostState:
        seen = tuple(found.container for found in self.containers.observe())
        return replace(self.kernel.observe().state, containers=seen)


def things_of(state: HostState) -> list[Thing]:
    return [
        *state.links,
        *state.addresses,
        *state.routes,
        *state.rules,
        *state.masquerades,
        *state.forwards,
    ]


def key(state: HostState) -> tuple[frozenset[Thing], frozenset[Container]]:
    """What two states have to have in common to be the same."""
    return frozenset(things_of(state)), frozenset(state.containers)


def as_made(desired: HostState, observed: HostState) -> HostState:
    """*desired*, where containers that are there were cloned from what they were cloned from."""
    there = {one.name: one.clone_of for one in observed.containers}
    kept = tuple(replace(one, clone_of=there.get(one.name, one.clone_of)) for one in desired.containers)
    return replace(desired, containers=kept)


def unclone(state: HostState) -> HostState:
    """A container that was deleted is not made again in earnest, so no clone has to wait for its source."""
    return replace(state, containers=tuple(replace(one, clone_of="") for one in state.containers))


def writes_of(action: Action) -> list[tuple[str, str]]:
    """What *action*, as it is printed, comes to at the doors."""
    thing, verb = action.thing, action.verb
    if not isinstance(thing, Container):
        return [(verb.value, action.name)]
    started = [("start", action.name), ("mark", thing.nic.port)]
    match verb:
        case Verb.START:
            return started
        case Verb.RESTART:
            return [("stop", action.name), ("change", action.name), *started]
        case _:
            return [(verb.value, action.name)]


@settings(max_examples=150, deadline=None)
@given(desired=states(), observed=states())
def test_a_plan_leads_to_what_is_desired_and_writes_what_it_says(desired: HostState, observed: HostState) -> None:
    desired = as_made(desired, observed)
    plan = make_plan(desired, observed, FOREIGN)
    assert bool(plan) == (key(desired) != key(observed))
    host = Fakes(observed)
    host.perform(plan)
    assert key(host.state()) == key(desired)
    assert make_plan(desired, host.state(), host.kernel.foreign) == ()
    written = Counter([*host.kernel.calls, *host.containers.calls])
    assert written == Counter(write for action in plan for write in writes_of(action))


@settings(max_examples=150, deadline=None)
@given(desired=states(), observed=states(), data=st.data())
def test_the_inverse_of_any_first_part_of_a_plan_gives_back_what_was(
    desired: HostState, observed: HostState, data: st.DataObject
) -> None:
    desired, observed = unclone(desired), unclone(observed)
    plan = make_plan(desired, observed, FOREIGN)
    done = plan[: data.draw(st.integers(0, len(plan)))]
    host = Fakes(observed)
    host.perform(done)
    host.perform(make_inverse(done))
    assert key(host.state()) == key(observed)
    assert host.kernel.marked == {one.nic.port for one in observed.containers if one.running}


@given(state=states())
def test_what_is_as_desired_needs_no_plan(state: HostState) -> None:
    assert make_plan(state, state, FOREIGN) == ()
