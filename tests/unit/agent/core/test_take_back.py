"""What a host is to be when a change of its network is taken back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface

from agent.core.plan import make_plan
from agent.core.take_back import changes_network, make_taken_back
from proto.model import HostState
from tests.support.scenarios import DEMO, ROUTED
from tests.support.things import TRUNK, make_bridge, make_container, make_desired, make_state

ONE = make_container()


def test_of_a_first_change_containers_stay_and_their_bridge_alone() -> None:
    taken = make_taken_back(HostState(), ROUTED)
    assert taken.taken_back
    assert (taken.cluster, taken.host, taken.generation) == (ROUTED.cluster, ROUTED.host, ROUTED.generation)
    assert taken.state == HostState(links=ROUTED.state.links[:1], containers=ROUTED.state.containers)
    assert taken.state.links[0].kind == "bridge"


def test_what_was_there_before_is_there_again_as_it_was() -> None:
    before = make_state(ONE, mtu=1400)
    taken = make_taken_back(before, make_desired(ONE, generation=2))
    assert taken.state.links == before.links
    assert taken.state.containers == (ONE,)


def test_another_bridge_that_a_container_was_put_on_stays() -> None:
    other = replace(ONE, nic=replace(ONE.nic, bridge="lxcbr200"))
    in_force = make_desired(other, vid=200)
    taken = make_taken_back(make_state(ONE), in_force)
    assert [link.name for link in taken.state.links] == ["lxcbr100", "eth1.100", "lxcbr200"]
    without = make_taken_back(make_state(ONE), make_desired(vid=200))
    assert [link.name for link in without.state.links] == ["lxcbr100", "eth1.100"], "nobody is on it"


def test_no_container_is_touched_by_it() -> None:
    for before in (HostState(), make_state(), make_state(ONE, make_container("old", number=77)), ROUTED.state):
        taken = make_taken_back(before, DEMO)
        plan = make_plan(taken.state, DEMO.state, {"eth1": TRUNK})
        assert [action for action in plan if action.kind == "container"] == []
        again = make_taken_back(before, taken)
        assert again == taken


def test_only_what_is_not_of_containers_changes_the_network() -> None:
    foreign = {"eth1": TRUNK}
    assert changes_network(make_plan(DEMO.state, HostState(), foreign))
    more = replace(DEMO.state, containers=(*DEMO.state.containers, make_container("c99", number=99)))
    assert make_plan(more, DEMO.state, foreign)
    assert not changes_network(make_plan(more, DEMO.state, foreign))
    assert not changes_network(make_plan(DEMO.state, more, foreign))
    assert not changes_network(())
    address = replace(ROUTED.state.addresses[0], address=IPv4Interface("10.20.1.2/24"))
    moved = replace(ROUTED.state, addresses=(address,))
    assert changes_network(make_plan(moved, ROUTED.state, {}))
    assert make_bridge() in DEMO.state.links
