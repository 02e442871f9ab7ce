"""A tunnel from its creation to its removal: what is refused, what is left, what a restart finds, what is mended."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from agent.kernel import tunnel_sources as why
from agent.kernel.door import NetlinkDoor
from agent.kernel.ipip_kernel import BROKEN
from proto.errors import CaasError, Code
from proto.marks import HOST, TUNNEL_RULE_PRIORITY, TUNNEL_TABLE, Mark
from proto.model import Address, Bridge, HostState, Ipip, Route, Rule
from tests.netns.conftest import TUNNELS
from tests.support import oracle
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, Site, poll_until, run
from tests.support.tunnelled import ENDS, MTU, add_box, make, make_container, make_end, make_tunnel, remove, things
from tests.support.wire import Tap, inside

NAME = f"t{WIRE_ADDRESS}"


@pytest.fixture(params=TUNNELS)
def realisation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def door(site: Site, realisation: str) -> Iterator[NetlinkDoor]:
    with open_door(site.host, realisation) as opened:
        yield opened


def open_door(netns: str, realisation: str) -> NetlinkDoor:
    return NetlinkDoor(netns=netns, ipip=realisation)  # type: ignore[arg-type]


def snapshot(netns: str) -> dict[str, Any]:
    """Without the tunl0 that the kernel's module leaves in each namespace."""
    seen = oracle.snapshot(netns)
    seen["links"].pop("tunl0", None)
    seen["addresses"].pop("tunl0", None)
    return seen


def sysctl(netns: str, name: str) -> str:
    return run(f"cat /proc/sys/net/ipv4/conf/{name}", netns=netns).strip()


def pings(box: str, target: str, *, size: int = 56, count: int = 1) -> bool:
    command = f"ping -M do -s {size} -c {count} -i 0.2 -W 1 {target} >/dev/null && echo yes"
    return bool(run(command, netns=box, check=False))


@pytest.fixture
def pair(site: Site, realisation: str) -> Iterator[tuple[NetlinkDoor, NetlinkDoor, str, str]]:
    """Two hosts of the same realisation, and a box behind each."""
    with open_door(site.host, realisation) as first, open_door(site.wire, realisation) as second:
        make(first, make_end(1))
        make(second, make_end(2))
        yield first, second, add_box(site, 1), add_box(site, 2)


def test_it_is_there_as_wanted(site: Site, door: NetlinkDoor, realisation: str) -> None:
    before = {name: sysctl(site.host, name) for name in ("all/rp_filter", "default/rp_filter", "eth1/rp_filter")}
    make(door, make_end(1))
    link = oracle.links(site.host)[NAME]
    assert (link["mtu"], link["ifalias"]) == (MTU, f"caas:host:{NAME}")
    assert {"UP", "LOWER_UP", "NOARP"} <= set(link["flags"])
    assert oracle.addresses(site.host, NAME) == []
    if realisation == "kernel":
        data = link["linkinfo"]["info_data"]
        assert link["linkinfo"]["info_kind"] == "ipip"
        assert (data["local"], data["remote"], data["ttl"], data["pmtudisc"]) == (HOST_ADDRESS, WIRE_ADDRESS, 64, True)
    assert door.datapath().ipip == realisation
    assert door.observe().state == make_end(1)
    assert sysctl(site.host, f"{NAME}/rp_filter") == "2"
    assert {name: sysctl(site.host, name) for name in before} == before


def test_removal_leaves_nothing(site: Site, door: NetlinkDoor) -> None:
    before = snapshot(site.host)
    make(door, make_end(1))
    assert snapshot(site.host) != before
    for _ in range(2):
        remove(door, make_end(1))
    assert snapshot(site.host) == before
    assert door.observe().state == HostState()


def test_looking_writes_nothing_and_neither_does_a_restarted_agent(
    site: Site, door: NetlinkDoor, realisation: str
) -> None:
    make(door, make_end(1))
    written = door.writes
    door.observe(), door.datapath(), door.tunnel_drops()
    assert door.writes == written
    with open_door(site.host, realisation) as restarted:
        assert restarted.observe().state == make_end(1)
        restarted.tunnel_drops()
        assert restarted.writes == 0


def test_a_restarted_agent_goes_on_with_what_is_there(
    site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str], realisation: str
) -> None:
    first, _, box, _ = pair
    poll_until(lambda: pings(box, "10.9.2.2"), deadline=10)
    first.close()
    more = Route(dst=IPv4Network("10.9.7.0/24"), dev=NAME)
    with open_door(site.host, realisation) as restarted:
        restarted.create(more)
        assert pings(box, "10.9.2.2")
        assert more in restarted.observe().state.routes
        restarted.delete(more)
        assert restarted.observe().state == make_end(1)
        restarted.change(make_tunnel(1), make_tunnel(1, mtu=1400))
        assert pings(box, "10.9.2.2")
        remove(restarted, make_end(1))
        assert restarted.observe().state == HostState()


def test_boxes_reach_each_other_with_their_own_addresses_up_to_the_mtu(
    site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str]
) -> None:
    _, _, one, two = pair
    poll_until(lambda: pings(one, "10.9.2.2") and pings(two, "10.9.1.2"), deadline=10)
    with Tap(two, "eth0") as tap:
        assert pings(one, "10.9.2.2")
        sources = {frame.payload[12:16] for frame in tap.drain() if frame.ethertype == 0x0800}
        assert sources == {IPv4Address("10.9.1.2").packed}
    assert pings(one, "10.9.2.2", size=MTU - 28)
    said = run(f"ping -M do -s {MTU - 27} -c 1 -W 1 10.9.2.2 2>&1", netns=one, check=False)
    assert f"mtu = {MTU}" in said or f"mtu={MTU}" in said


@pytest.mark.parametrize("straight", [False, True], ids=["by the stack", "straight"])
def test_tcp_and_large_datagrams_cross_whole(
    site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str], straight: bool
) -> None:
    first, second, one, two = pair
    poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
    if straight:
        first.set_port_mark(make_container(1))
        second.set_port_mark(make_container(2))
    sent = os.urandom(2 << 20)
    assert send_stream(one, two, "10.9.2.2", sent) == sent
    assert first.tunnel_drops() == second.tunnel_drops() == dict.fromkeys(why.REASONS, 0)


def send_stream(sender: str, receiver: str, address: str, data: bytes) -> bytes:
    """What arrives of *data* by TCP."""
    listener = inside(receiver, lambda: socket.create_server((address, 5001)))
    got = bytearray()

    def receive() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            while part := connection.recv(1 << 16):
                got.extend(part)

    thread = threading.Thread(target=receive)
    thread.start()
    with listener, inside(sender, lambda: socket.create_connection((address, 5001), timeout=20)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        thread.join(30)
    return bytes(got)


def test_a_segment_size_that_the_tunnel_cannot_carry_is_lowered(
    site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str]
) -> None:
    _, _, one, two = pair
    poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
    with Tap(two, "eth0") as tap:
        listener = inside(two, lambda: socket.create_server(("10.9.2.2", 5002)))
        with listener, inside(one, lambda: socket.create_connection(("10.9.2.2", 5002), timeout=10)) as connection:
            assert oracle.links(one)["eth0"]["mtu"] == 1500, "the box itself would have lowered it"
            connection.close()
        (syn, *_) = [
            f.payload for f in tap.drain() if f.ethertype == 0x0800 and f.payload[9] == 6 and f.payload[33] == 2
        ]
    assert syn[40:44] == b"\x02\x04" + (MTU - 40).to_bytes(2, "big")


def test_others_filters_are_never_passed_by(site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str]) -> None:
    _, second, one, _ = pair
    second.set_port_mark(make_container(2))
    poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
    run(
        "nft add table ip theirs; nft add chain ip theirs f '{ type filter hook forward priority 0; policy drop; }'",
        netns=site.wire,
    )
    second.create(Route(dst=IPv4Network("10.9.8.0/24"), dev=f"t{HOST_ADDRESS}"))
    assert not pings(one, "10.9.2.2")
    run("nft delete table ip theirs", netns=site.wire)
    assert pings(one, "10.9.2.2")


def test_a_restarted_agent_lets_packets_go_straight_again(site: Site) -> None:
    """Straight, a packet is not sent by the bridge. Only our own realisation can do so."""
    with open_door(site.host, "bpf") as first, open_door(site.wire, "bpf") as second:
        make(first, make_end(1))
        make(second, make_end(2))
        one, _ = add_box(site, 1), add_box(site, 2)
        second.set_port_mark(make_container(2))
        poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
        assert not bridged(site, one)
    with open_door(site.wire, "bpf") as restarted:
        restarted.create(Route(dst=IPv4Network("10.9.8.0/24"), dev=f"t{HOST_ADDRESS}"))
        assert bridged(site, one), "it knows no port, and lets no packet pass others' filters"
        restarted.adopt_ports([make_container(2)])
        assert not bridged(site, one)


def bridged(site: Site, box: str) -> bool:
    """Whether the far host's bridge sends what *box* asks the box behind it."""
    with Tap(site.wire, "lxcbr0", own=True) as tap:
        assert pings(box, "10.9.2.2")
        seen = tap.drain()
    return any(frame.outgoing and frame.ethertype == 0x0800 and frame.payload[9] == 1 for frame in seen)


def test_a_port_that_is_gone_is_no_dead_end(site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str]) -> None:
    _, second, one, two = pair
    second.set_port_mark(make_container(2))
    poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
    run(f"ip -n {two} link del eth0")
    site.namespaces.remove(two)
    add_box(site, 2)
    poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)


BREAKS = {
    "down": f"ip link set {NAME} down",
    "rules cut": "nft flush chain ip caas_ipip arrive",
    "rules gone": "nft delete table ip caas_ipip",
}
BPF_BREAKS = {
    "wrap gone": f"tc filter del dev {NAME} egress",
    "unwrap gone": "tc filter del dev eth1 ingress",
    "qdisc gone": "tc qdisc del dev eth1 clsact",
}


@pytest.mark.parametrize("name", [*BREAKS, *BPF_BREAKS])
def test_what_was_broken_is_seen_and_mended(
    site: Site, pair: tuple[NetlinkDoor, NetlinkDoor, str, str], realisation: str, name: str
) -> None:
    if realisation == "kernel" and name in BPF_BREAKS:
        run("tc qdisc add dev eth1 clsact", netns=site.host)
        assert pair[0].observe().state == make_end(1), "nothing of the kernel's realisation is there"
        return
    door, _, box, _ = pair
    poll_until(lambda: pings(box, "10.9.2.2"), deadline=10)
    run({**BREAKS, **BPF_BREAKS}[name], netns=site.host)
    (seen,) = (link for link in door.observe().state.links if isinstance(link, Ipip))
    assert seen == replace(make_tunnel(1), local=BROKEN)
    door.change(seen, make_tunnel(1))
    for route in make_end(1).routes:
        if route not in door.observe().state.routes:  # they went when it was down
            door.create(route)
    assert door.observe().state == make_end(1)
    assert pings(box, "10.9.2.2")


def test_its_far_end_and_mtu_change_in_place_with_its_routes(site: Site, door: NetlinkDoor) -> None:
    run("ip address add 192.168.2.27/24 dev eth1", netns=site.wire)
    make(door, make_end(1))
    index = oracle.links(site.host)[NAME]["ifindex"]
    after = replace(make_tunnel(1, mtu=1400), remote=IPv4Address("192.168.2.27"))
    door.change(make_tunnel(1), after)
    assert oracle.links(site.host)[NAME]["ifindex"] == index
    observed = door.observe().state
    assert after in observed.links
    assert observed.routes == make_end(1).routes
    with Tap(site.wire, "eth1") as wire:
        run("ping -c 1 -W 0.2 10.9.2.2", netns=site.host, check=False)
        (seen, *_) = [f for f in wire.drain() if f.ethertype == 0x0800 and f.payload[9] == 4]
        assert seen.payload[16:20] == IPv4Address("192.168.2.27").packed


REFUSALS: dict[str, tuple[Callable[[Ipip], Ipip], Code, str]] = {
    "not our address": (lambda t: replace(t, local=IPv4Address("192.168.2.44")), Code.NOT_FOUND, "no address of this"),
    "no way": (lambda t: replace(t, remote=IPv4Address("203.0.113.1")), Code.NOT_FOUND, "no route to 203.0.113.1"),
    "too wide": (lambda t: replace(t, mtu=1481), Code.INVALID, "MTU 1481 is above 1480"),
    "foreign name": (lambda t: replace(t, name="eth1"), Code.NOT_OWNED, "is taken by a veth that is not ours"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_named_and_leaves_nothing(site: Site, door: NetlinkDoor, name: str) -> None:
    before = snapshot(site.host)
    change, code, words = REFUSALS[name]
    with pytest.raises(CaasError, match=words) as caught:
        door.create(change(make_tunnel(1)))
    assert caught.value.code is code
    assert snapshot(site.host) == before


def test_two_tunnels_to_one_far_end_are_a_conflict(site: Site, door: NetlinkDoor) -> None:
    door.create(make_tunnel(1))
    before = snapshot(site.host)
    for wanted in (make_tunnel(1), replace(make_tunnel(1), name="second")):
        with pytest.raises(CaasError) as caught:
            door.create(wanted)
        assert caught.value.code is Code.CONFLICT
    assert snapshot(site.host) == before


def test_what_is_not_ours_is_never_changed_or_removed(site: Site, door: NetlinkDoor) -> None:
    run(f"ip link add {NAME} type veth peer name other", netns=site.host)
    with pytest.raises(CaasError) as caught:
        door.delete(make_tunnel(1))
    assert caught.value.code is Code.NOT_OWNED
    with pytest.raises(CaasError) as caught:
        door.change(make_tunnel(1), make_tunnel(1, mtu=1400))
    assert caught.value.code is Code.NOT_OWNED
    assert NAME in oracle.links(site.host)


def test_others_filters_on_the_underlay_stay(site: Site, door: NetlinkDoor) -> None:
    run(
        "tc qdisc add dev eth1 clsact && tc filter add dev eth1 ingress prio 9 protocol all bpf bytecode '1,6 0 0 0'",
        netns=site.host,
    )
    before = snapshot(site.host)
    make(door, make_end(1))
    remove(door, make_end(1))
    assert snapshot(site.host) == before


def test_one_tunnel_leads_to_any_far_end_by_routes(site: Site, realisation: str) -> None:
    with open_door(site.host, realisation) as first, open_door(site.wire, realisation) as second:
        before = snapshot(site.host)
        make(first, make_end(1, any_end=True))
        make(second, make_end(2, any_end=True))
        one, two = add_box(site, 1), add_box(site, 2)
        poll_until(lambda: pings(one, "10.9.2.2") and pings(two, "10.9.1.2"), deadline=10)
        assert pings(one, "10.9.2.2", size=MTU - 28)
        assert first.observe().state == make_end(1, any_end=True)
        lost = Route(dst=IPv4Network("10.9.2.0/24"), dev="tunnels", src=IPv4Address("10.9.1.1"), encap=ENDS[2])
        first.change(lost, replace(lost, encap=IPv4Address("192.168.2.99")))
        assert not pings(one, "10.9.2.2"), "its packets are not taken from this end any more"
        first.delete(replace(lost, encap=IPv4Address("192.168.2.99")))
        first.create(lost)
        assert pings(one, "10.9.2.2")
        run("ip link del demo.box1", netns=site.host)
        remove(first, make_end(1, any_end=True))
        assert snapshot(site.host) == before


def test_a_host_that_is_tunnelled_to_is_known_by_its_underlay_address(site: Site, realisation: str) -> None:
    peer = IPv4Network(WIRE_ADDRESS)
    block = IPv4Network("10.9.1.0/24")
    with open_door(site.host, realisation) as first, open_door(site.wire, realisation) as second:
        end = make_end(1)
        make(first, replace(end, routes=(Route(dst=peer, dev=NAME, table=TUNNEL_TABLE),)))
        first.create(Rule(priority=TUNNEL_RULE_PRIORITY, src=block, dst=peer, table=TUNNEL_TABLE))
        second.create(make_tunnel(2))
        second.create(Route(dst=block, dev=f"t{HOST_ADDRESS}", src=ENDS[2]))
        box = add_box(site, 1)
        poll_until(lambda: pings(box, WIRE_ADDRESS) and pings(site.wire, "10.9.1.2"), deadline=10)
        assert pings(site.host, WIRE_ADDRESS), "the hosts themselves talk past the tunnel"
        assert first.tunnel_drops()[why.BARE] == 0
        run(f"ip route replace {block} via {HOST_ADDRESS}", netns=site.wire)
        assert not pings(site.wire, "10.9.1.2")
        assert first.tunnel_drops()[why.BARE] == 1


def test_both_realisations_understand_each_other(site: Site, realisation: str) -> None:
    other = {"kernel": "bpf", "bpf": "bpf"}[realisation]
    with open_door(site.host, realisation) as first, open_door(site.wire, other) as second:
        make(first, make_end(1))
        make(second, make_end(2))
        one, two = add_box(site, 1), add_box(site, 2)
        poll_until(lambda: pings(one, "10.9.2.2"), deadline=10)
        sent = os.urandom(1 << 20)
        assert send_stream(one, two, "10.9.2.2", sent) == sent
        assert send_stream(two, one, "10.9.1.2", sent) == sent


def test_two_tunnels_share_the_underlay(site: Site, door: NetlinkDoor) -> None:
    make(door, make_end(1))
    before = snapshot(site.host)
    second = Ipip(name="t2", local=ENDS[1], remote=IPv4Address("192.168.2.30"), mtu=MTU, mark=Mark(HOST, "t2"))
    door.create(second)
    door.create(Route(dst=IPv4Network("10.9.3.0/24"), dev="t2"))
    assert second in door.observe().state.links
    door.delete(second)
    assert door.observe().state == make_end(1)
    assert without_rules(snapshot(site.host)) == without_rules(before), "but for the numbers of the rules"


def without_rules(seen: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in seen.items() if key != "nft"}


def test_every_thing_is_seen_as_it_was_wanted(door: NetlinkDoor) -> None:
    for thing in things(make_end(1)):
        assert isinstance(thing, Bridge | Ipip | Address | Route)
        door.create(thing)
        found = door.observe().state
        assert thing in (*found.links, *found.addresses, *found.routes)
