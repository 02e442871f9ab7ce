"""Clusters whose hosts are joined directly, by VXLAN, or each pair in its own way: from the file to the packet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from coordinator.compiling import Compiled, Pair
from proto.errors import CaasError, Code
from proto.model import Route, Vxlan
from tests.netns.conftest import TUNNELS
from tests.support import oracle
from tests.support.netns import poll_until, run
from tests.support.overlays import ADDRESSES, Hosts
from tests.support.wire import Tap

MIXED: dict[Pair, str] = {("h1", "h2"): "direct", ("h1", "h3"): "vxlan", ("h2", "h3"): "ipip"}
#: Overlay, hosts, ways, what the containers' MTU has to be.
CASES = {
    "direct": ("direct", ("h1", "h2"), {}, 1500),
    "vxlan": ("vxlan", ("h1", "h2", "h3"), {}, 1450),
    "auto": ("auto", ("h1", "h2", "h3"), MIXED, 1450),
}


@pytest.fixture(params=TUNNELS)
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    made = Hosts(ipip=str(request.param))
    yield made
    made.close()


def make(hosts: Hosts, case: str) -> Compiled:
    overlay, on, pairs, _ = CASES[case]
    compiled = hosts.compile(overlay, pairs, on=on)
    hosts.apply(compiled)
    return compiled


@pytest.mark.parametrize("case", CASES)
def test_boxes_reach_each_other_with_their_own_addresses_up_to_the_mtu(hosts: Hosts, case: str) -> None:
    make(hosts, case)
    mtu = CASES[case][3]
    hosts.check_mtu(mtu)
    for one, other in itertools.permutations(hosts.boxes, 2):
        assert oracle.links(hosts.boxes[one])["eth0"]["mtu"] == mtu
        with Tap(hosts.boxes[other], "eth0") as tap:
            assert hosts.pings(one, other)
            sources = {IPv4Address(frame.payload[12:16]) for frame in tap.drain() if frame.ethertype == 0x0800}
        assert sources == {hosts.nics[one].address.ip}
    assert all(not any(door.tunnel_drops().values()) for door in hosts.doors.values())


@pytest.mark.parametrize("case", CASES)
def test_what_is_there_is_left_alone_and_all_of_it_goes(hosts: Hosts, case: str) -> None:
    before = {name: oracle.snapshot(netns) for name, netns in hosts.hosts.items()}
    compiled = make(hosts, case)
    for name, door in hosts.doors.items():
        written = door.writes
        assert hosts.plan(name, compiled) == ()
        assert door.writes == written
    for name, box in hosts.boxes.items():
        run(f"ip -n {box} link del eth0")
        assert oracle.snapshot(hosts.hosts[name]) != before[name]
    hosts.remove()
    for name, netns in hosts.hosts.items():
        after = oracle.snapshot(netns)
        for each in (after, before[name]):
            each["links"].pop("tunl0", None)
            each["addresses"].pop("tunl0", None)
        assert after == before[name]


def test_each_pair_takes_its_way(hosts: Hosts) -> None:
    make(hosts, "auto")
    for one, other in itertools.permutations(ADDRESSES, 2):
        assert hosts.pings(one, other)
    wires = {("h1", "h2"): 1, ("h1", "h3"): 17, ("h2", "h3"): 4}
    for (one, other), protocol in wires.items():
        with Tap(hosts.hosts[other], "eth0") as tap:
            assert hosts.pings(one, other)
            seen = {frame.payload[9] for frame in tap.drain() if frame.ethertype == 0x0800}
        assert seen == {protocol}, (one, other)


def test_a_way_changes_into_any_other(hosts: Hosts) -> None:
    for overlay in ("direct", "vxlan", "ipip", "direct", "ipip", "vxlan", "direct"):
        compiled = hosts.compile(overlay, {}, on=("h1", "h2"))
        for name in hosts.boxes:
            run(f"ip -n {hosts.boxes[name]} link set eth0 mtu 1400")
        hosts.apply(compiled)
        poll_until(lambda: hosts.pings("h1", "h2") and hosts.pings("h2", "h1"), deadline=10)


def test_direct_to_a_host_behind_a_router_is_not_found(hosts: Hosts) -> None:
    with pytest.raises(CaasError, match=r"192\.168\.11\.3 is on no link of this host's own") as caught:
        hosts.apply(hosts.compile("direct", {}))
    assert caught.value.code is Code.NOT_FOUND


def test_a_direct_route_is_seen_changed_and_mended(hosts: Hosts) -> None:
    compiled = make(hosts, "direct")
    door = hosts.doors["h1"]
    (route,) = compiled.hosts["h1"].state.routes
    assert route == Route(
        dst=IPv4Network("10.9.2.0/24"), dev="", via=IPv4Address(ADDRESSES["h2"]), src=IPv4Address("10.9.1.1")
    )
    assert door.observe().state.routes == (route,)
    other = replace(route, via=IPv4Address("192.168.10.254"))
    door.change(route, other)
    assert door.observe().state.routes == (other,)
    (action,) = hosts.plan("h1", compiled)
    assert (action.verb.value, action.before, action.after) == ("change", other, route)
    hosts.apply(compiled)
    run("ip route del 10.9.2.0/24", netns=hosts.hosts["h1"])
    assert [action.verb.value for action in hosts.plan("h1", compiled)] == ["create"]
    door.delete(route)
    hosts.apply(compiled)
    assert hosts.pings("h1", "h2")


BREAKS = {
    "down": "ip link set vxlans down",
    "mac": "ip link set vxlans address 02:00:00:00:00:01",
    "no neighbour": "ip neigh flush nud permanent dev vxlans",
    "other neighbour": "ip neigh add 192.168.10.7 lladdr 02:00:00:00:00:07 dev vxlans nud permanent",
    "wrong neighbour": "ip neigh replace 192.168.10.2 lladdr 02:00:00:00:00:07 dev vxlans nud permanent",
    "no entry": "bridge fdb del 02:ca:c0:a8:0a:02 dev vxlans",
    "other entry": "bridge fdb append 02:00:00:00:00:07 dst 192.168.10.7 dev vxlans",
    "rules cut": "nft flush chain ip caas_vxlan arrive",
    "rules gone": "nft delete table ip caas_vxlan",
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_vxlan_that_was_broken_is_seen_and_mended_in_place(name: str) -> None:
    hosts = Hosts()
    try:
        compiled = make(hosts, "vxlan")
        poll_until(lambda: hosts.pings("h1", "h2"), deadline=10)
        index = oracle.links(hosts.hosts["h1"])["vxlans"]["ifindex"]
        run(BREAKS[name], netns=hosts.hosts["h1"])
        actions = hosts.plan("h1", compiled)
        changed = [action.after for action in actions if action.verb.value == "change"]
        assert [thing.name for thing in changed if isinstance(thing, Vxlan)] == ["vxlans"]
        hosts.apply(compiled)
        assert hosts.plan("h1", compiled) == ()
        assert oracle.links(hosts.hosts["h1"])["vxlans"]["ifindex"] == index
        assert hosts.pings("h1", "h2")
        assert hosts.pings("h1", "h3")
    finally:
        hosts.close()
