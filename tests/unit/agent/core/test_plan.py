"""The plan: what it holds, in what order, and that applying it gives what was desired."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.core.doors import ForeignLink
from agent.core.plan import make_plan, scope
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Address, Container, HostState, Plan, Route, Verb, Vxlan
from tests.support.things import TRUNK, make_bridge, make_container, make_state, make_tunnelled, make_vlan

FOREIGN = {TRUNK.name: TRUNK}


def lines(plan: Plan) -> list[str]:
    return [f"{action.verb.value} {action.kind} {action.name}" for action in plan]


def test_a_host_that_is_as_desired_needs_nothing() -> None:
    state = make_state(make_container())
    assert make_plan(state, state, FOREIGN) == ()


def test_an_empty_host_gets_links_from_the_bottom_up_then_containers() -> None:
    plan = make_plan(make_state(make_container()), HostState(), FOREIGN)
    assert lines(plan) == [
        "create bridge lxcbr100",
        "create vlan eth1.100",
        "create container demo.ubuntu011",
        "start container demo.ubuntu011",
    ]
    assert all(action.why for action in plan)


def test_what_is_not_desired_goes_from_the_top_down() -> None:
    plan = make_plan(HostState(), make_state(make_container()), FOREIGN)
    assert lines(plan) == [
        "stop container demo.ubuntu011",
        "delete container demo.ubuntu011",
        "delete vlan eth1.100",
        "delete bridge lxcbr100",
    ]


@pytest.mark.parametrize(
    ("wanted", "seen", "why"),
    [
        (True, False, "its SSH keys are not its host's"),
        (True, None, "its SSH keys are not its host's"),
        (False, True, "nobody is to log in by SSH"),
        (False, None, "nobody is to log in by SSH"),
    ],
)
def test_ssh_keys_are_changed_while_it_runs(wanted: bool, seen: bool | None, why: str) -> None:
    plan = make_plan(
        make_state(replace(make_container(), ssh=wanted)), make_state(replace(make_container(), ssh=seen)), FOREIGN
    )
    assert lines(plan) == ["change container demo.ubuntu011"]
    assert plan[0].why == why


def test_an_mtu_is_changed_in_place() -> None:
    plan = make_plan(make_state(mtu=1480), make_state(mtu=1500), FOREIGN)
    assert lines(plan) == ["change bridge lxcbr100", "change vlan eth1.100"]
    assert "mtu 1500 -> 1480" in plan[0].why


def test_another_vid_under_the_same_name_is_replaced() -> None:
    seen = HostState(links=(make_bridge(), replace(make_vlan(), vid=200)))
    plan = make_plan(make_state(), seen, FOREIGN)
    assert lines(plan) == ["delete vlan eth1.100", "create vlan eth1.100"]
    assert "200" in plan[0].why


@pytest.mark.parametrize("name", ["lxcbr100", "eth1.100", "demo.ubuntu011"])
def test_a_foreign_link_of_our_name_is_an_error_and_named(name: str) -> None:
    foreign = {**FOREIGN, name: ForeignLink(name=name, kind="dummy", mtu=1500, up=False)}
    port = make_container().nic.port
    if name == "demo.ubuntu011":
        assert port == name
    with pytest.raises(CaasError, match=name) as caught:
        make_plan(make_state(make_container()), HostState(), foreign)
    assert caught.value.code is Code.NOT_OWNED
    assert f"ip link del {name}" in caught.value.hint


def test_a_missing_parent_is_an_error_before_anything() -> None:
    with pytest.raises(CaasError, match="parent eth1") as caught:
        make_plan(make_state(), HostState(), {})
    assert caught.value.code is Code.NOT_FOUND


def test_a_container_is_never_renumbered() -> None:
    before = make_container()
    after = replace(before, nic=replace(before.nic, address=IPv4Interface("192.168.10.60/24")))
    with pytest.raises(CaasError, match=r"192\.168\.10\.60") as caught:
        make_plan(make_state(after), make_state(before), FOREIGN)
    assert caught.value.code is Code.REFUSED


def test_a_new_mtu_restarts_a_container_and_says_so() -> None:
    before = make_container()
    after = replace(before, nic=replace(before.nic, mtu=1400))
    plan = make_plan(make_state(after), make_state(before), FOREIGN)
    assert lines(plan) == ["restart container demo.ubuntu011"]
    assert "mtu 1500 -> 1400" in plan[0].why


@pytest.mark.parametrize(("running", "verb"), [(True, "restart"), (False, "change")])
@pytest.mark.parametrize("merge", [True, False])
def test_density_is_decided_at_the_start(merge: bool, running: bool, verb: str) -> None:
    before = replace(make_container(running=running), merge=not merge)
    plan = make_plan(make_state(replace(before, merge=merge)), make_state(before), FOREIGN)
    assert lines(plan) == [f"{verb} container demo.ubuntu011"]
    assert f"density {'high' if merge else 'normal'}" in plan[0].why


def test_the_image_of_a_container_was_decided_when_it_was_made() -> None:
    before = make_container()
    assert make_plan(make_state(replace(before, image="newer")), make_state(before), FOREIGN) == ()


def clone(number: int, source: str) -> Container:
    return replace(make_container(f"c{number}", number=number), clone_of=source)


def test_clones_are_made_after_what_they_are_made_from_and_all_start_together() -> None:
    wanted = make_state(clone(3, "c2"), clone(2, "c1"), make_container("c1", number=1), clone(4, "c1"))
    plan = make_plan(wanted, make_state(), FOREIGN)
    assert lines(plan)[:4] == [f"create container demo.c{number}" for number in (1, 2, 4, 3)]
    assert {line.split()[0] for line in lines(plan)[4:]} == {"start"}
    assert plan[1].why == "missing; cloned from c1"


def test_a_clone_of_what_is_there() -> None:
    source = make_container("c1", number=1)
    plan = make_plan(make_state(source, clone(2, "c1")), make_state(source), FOREIGN)
    assert lines(plan) == ["create container demo.c2", "start container demo.c2"]


def test_a_clone_of_nothing_on_this_host_is_an_error_before_anything() -> None:
    for seen in (make_state(), make_state(make_container("c1", number=1))):  # there, and to be removed
        with pytest.raises(CaasError, match=r"demo\.c2: there is no demo\.c1 on this host") as caught:
            make_plan(make_state(clone(2, "c1")), seen, FOREIGN)
        assert caught.value.code is Code.NOT_FOUND


def test_a_clone_of_another_image_is_an_error_before_anything() -> None:
    source = replace(make_container("c1", number=1), image="other")
    for seen in (make_state(), make_state(source)):
        with pytest.raises(CaasError, match=r"demo\.c1, to be cloned, has other") as caught:
            make_plan(make_state(source, clone(2, "c1")), seen, FOREIGN)
        assert caught.value.code is Code.CONFLICT


@pytest.mark.parametrize("circle", [(1,), (1, 2), (1, 2, 3)])
def test_clones_of_each_other_are_refused(circle: tuple[int, ...]) -> None:
    following = dict(zip(circle, (*circle[1:], circle[0]), strict=True))
    wanted = make_state(clone(9, "c1"), *(clone(number, f"c{after}") for number, after in following.items()))
    with pytest.raises(CaasError, match=r"demo\.c1") as caught:
        make_plan(wanted, make_state(), FOREIGN)
    assert caught.value.code is Code.INVALID


def test_what_a_container_was_cloned_from_does_not_matter_any_more() -> None:
    before = clone(2, "c1")
    assert make_plan(make_state(before), make_state(before), FOREIGN) == ()
    assert make_plan(make_state(replace(before, clone_of="")), make_state(before), FOREIGN) == ()


def test_a_stopped_container_is_started_and_a_changed_one_changed_first() -> None:
    before = make_container(running=False)
    after = replace(before, running=True, roles=("compute", "glance"))
    plan = make_plan(make_state(after), make_state(before), FOREIGN)
    assert [action.verb for action in plan] == [Verb.CHANGE, Verb.START]


def test_a_port_without_its_mark_is_marked_again() -> None:
    container = make_container()
    port = ForeignLink(name=container.nic.port, kind="veth", mtu=1500, up=True)
    plan = make_plan(make_state(container), make_state(container), {**FOREIGN, port.name: port})
    assert lines(plan) == ["change container demo.ubuntu011"]


def test_scope_leaves_other_clusters_out() -> None:
    both = make_state(make_container()).union(
        make_state(make_container("other", number=51, cluster="blue", vid=200), vid=200, cluster="blue")
    )
    assert scope(both, "demo", desired=HostState(), others=HostState()) == make_state(make_container())


def test_scope_has_of_what_is_shared_what_is_desired_or_what_nobody_needs() -> None:
    mine, theirs, nobodys = (make_tunnelled(number) for number in (1, 2, 3))
    seen = mine.union(theirs).union(nobodys)
    scoped = scope(seen, "demo", desired=mine, others=theirs)
    assert scoped == mine.union(nobodys)
    assert scope(seen, "demo", desired=mine, others=mine.union(theirs)) == mine.union(nobodys)
    assert scope(seen, "demo", desired=HostState(), others=seen) == HostState()
    foreign = replace(mine.routes[0], dev="eth1")
    assert scope(HostState(routes=(foreign,)), "demo", desired=HostState(), others=HostState()) == HostState()


def test_two_clusters_that_want_one_bridge_conflict() -> None:
    with pytest.raises(CaasError, match="lxcbr100") as caught:
        make_state().union(make_state(cluster="blue"))
    assert caught.value.code is Code.CONFLICT


def test_what_stands_on_a_link_that_is_made_anew_is_made_anew() -> None:
    """The kernel removes it with the link: what was observed would not be there any more."""
    vlan = replace(make_vlan(), master="")
    standing = (Address(link=vlan.name, address=IPv4Interface("10.20.1.1/24")),)
    routes = (Route(dst=IPv4Network("10.31.0.0/16"), dev=vlan.name, src=IPv4Address("10.20.1.1")),)
    seen = HostState(links=(vlan,), addresses=standing, routes=routes)
    wanted = replace(seen, links=(replace(vlan, vid=101),))
    plan = make_plan(wanted, seen, FOREIGN)
    kinds = ["route", "address", "vlan"]
    assert [(action.verb, action.kind) for action in plan] == [
        *((Verb.DELETE, kind) for kind in kinds),
        *((Verb.CREATE, kind) for kind in reversed(kinds)),
    ]
    assert "eth1.100" in plan[1].why
    assert "10.20.1.1" in plan[0].why or "eth1.100" in plan[0].why


def test_a_route_by_the_hosts_own_link_belongs_to_whoever_wants_it() -> None:
    mine = Route(dst=IPv4Network("10.9.2.0/24"), dev="", via=IPv4Address("192.168.2.26"))
    theirs = replace(mine, dst=IPv4Network("10.9.3.0/24"))
    nobodys = replace(mine, dst=IPv4Network("10.9.4.0/24"))
    foreign = replace(mine, dst=IPv4Network("10.9.5.0/24"), dev="eth9")
    seen = HostState(routes=(mine, theirs, nobodys, foreign))
    found = scope(seen, "demo", desired=HostState(routes=(mine,)), others=HostState(routes=(theirs,)))
    assert found.routes == (mine, nobodys)


def test_a_vxlan_comes_before_its_routes_and_goes_after_them() -> None:
    vxlan = Vxlan(name="vxlans", local=IPv4Address("192.168.2.25"), mtu=1450, mark=Mark("host", "vxlans"))
    route = Route(dst=IPv4Network("10.9.2.0/24"), dev="vxlans", encap=IPv4Address("192.168.2.26"))
    wanted = HostState(routes=(route,), links=(vxlan,))
    made = make_plan(wanted, HostState(), {})
    assert [(action.verb, action.thing) for action in made] == [(Verb.CREATE, vxlan), (Verb.CREATE, route)]
    gone = make_plan(HostState(), wanted, {})
    assert [(action.verb, action.thing) for action in gone] == [(Verb.DELETE, route), (Verb.DELETE, vxlan)]
    with pytest.raises(CaasError, match="a dummy named vxlans exists and is not ours"):
        make_plan(wanted, HostState(), {"vxlans": ForeignLink(name="vxlans", kind="dummy", mtu=1500, up=True)})
