"""`caas verify`'s burst between boxes behind real agents: all well, and each cause, by causing it.

Each test breaks one thing by iproute2, nft or sysctl, and wants exactly its cause, at its place, for exactly the pairs
that it affects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.reach import Pair, burst
from proto.model import Cause, Vlan
from tests.netns.conftest import REALISATIONS, TUNNELS
from tests.support import oracle
from tests.support.netns import run
from tests.support.world import BOXES, ROUTED, TAGGED, WRAPPED, World

Ends = tuple[str, str]
#: Both directions between boxes of different hosts.
CROSSING = {(one, other) for one in BOXES for other in BOXES if BOXES[one] != BOXES[other]}
IS_BRIDGED_FILTERED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
NFT_FORWARD = "add table {0} t; add chain {0} t c {{ type filter hook forward priority 0; policy {1}; }};"


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is further than a veth: what is not answered at once, nor when asked twice more, never is."""
    monkeypatch.setattr(burst, "LISTEN", 1.2)


@pytest.fixture(params=TUNNELS)
async def routed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, ROUTED, ipip=request.param)
    try:
        await world.start()
        yield world
    finally:
        await world.close()


@pytest.fixture
async def wrapped(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, WRAPPED)
    try:
        await world.start()
        yield world
    finally:
        await world.close()


@pytest.fixture(params=REALISATIONS)
async def tagged(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, TAGGED, vlan=request.param)
    try:
        await world.start()
        yield world
    finally:
        await world.close()


def failed(pairs: Iterable[Pair]) -> dict[Ends, tuple[Cause, str]]:
    """Cause and host of each pair that fails. What was said is printed: a failing test shows it."""
    for pair in pairs:
        if not pair.ok:
            print(f"{pair.source} -> {pair.target}: {pair.cause}")
    return {
        (pair.source, pair.target): (pair.verdict.cause, pair.verdict.at)
        for pair in pairs
        if not pair.ok and pair.verdict
    }


def with_box(*names: str, gateway: bool = False) -> set[Ends]:
    """Every pair that one of *names* is an end of."""
    found = {(one, other) for one in BOXES for other in BOXES if one != other and {one, other} & set(names)}
    return found | ({(name, "gateway") for name in names} if gateway else set())


# ---- routed: tunnels


async def test_all_is_well_between_blocks(routed: World) -> None:
    pairs = await routed.verify()
    assert failed(pairs) == {}
    assert all(pair.ok and pair.reached and pair.full_mtu for pair in pairs)
    wanted = {(one, other) for one in BOXES for other in (*BOXES, "gateway") if one != other}
    assert {(pair.source, pair.target) for pair in pairs} == wanted
    assert all(pair.seconds is not None and 0 < pair.seconds < 1 for pair in pairs)


async def test_no_route(routed: World) -> None:
    routed.on("host1", "ip route del 10.9.2.0/24")
    assert failed(await routed.verify()) == dict.fromkeys(CROSSING, (Cause.NO_ROUTE, "host1"))


async def test_no_route_in_a_box(routed: World) -> None:
    routed.on("a2", "ip route del default")
    lost = {ends for ends in with_box("a2") if ends in CROSSING}
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.NO_ROUTE, "host1"))


async def test_protocol_4_is_dropped_between_the_hosts(routed: World) -> None:
    routed.on("router", f"nft '{NFT_FORWARD.format('ip', 'accept')} add rule ip t c ip protocol 4 drop'")
    assert failed(await routed.verify()) == dict.fromkeys(CROSSING, (Cause.PROTOCOL_4, ""))


async def test_protocol_4_is_dropped_in_one_direction(routed: World) -> None:
    rule = "add rule ip t c ip saddr 192.168.2.26 ip protocol 4 drop"
    routed.on("router", f"nft '{NFT_FORWARD.format('ip', 'accept')} {rule}'")
    pairs = await routed.verify()
    assert failed(pairs) == dict.fromkeys(CROSSING, (Cause.PROTOCOL_4, ""))
    assert all("from host2 (192.168.2.26) to host1 (192.168.1.25)" in pair.cause for pair in pairs if not pair.ok)


@pytest.mark.parametrize("bridged", [False, True])
async def test_a_forward_policy(routed: World, bridged: bool) -> None:
    if IS_BRIDGED_FILTERED:
        routed.on("host2", f"sysctl -qw net.bridge.bridge-nf-call-iptables={int(bridged)}")
    elif bridged:
        pytest.skip("this kernel has no br_netfilter")
    routed.on("host2", f"nft '{NFT_FORWARD.format('inet', 'drop')}'")
    routed.doors["host2"].settle_ports()  # as the watch over a host does (test_drift.py)
    lost = CROSSING | ({("b1", "b2"), ("b2", "b1")} if bridged else set())
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.FORWARD, "host2"))


async def test_a_forward_policy_that_lets_the_bridges_pass_is_no_cause(routed: World) -> None:
    accept = 'add rule inet t c iifname "lxcbr0" accept; add rule inet t c oifname "lxcbr0" accept'
    routed.on("host2", f"nft '{NFT_FORWARD.format('inet', 'drop')} {accept}'")
    assert failed(await routed.verify()) == {}
    routed.on("router", f"nft '{NFT_FORWARD.format('ip', 'accept')} add rule ip t c ip protocol 4 drop'")
    assert failed(await routed.verify()) == dict.fromkeys(CROSSING, (Cause.PROTOCOL_4, ""))


async def test_forwarding_that_is_off(routed: World) -> None:
    routed.on("host1", "sysctl -qw net.ipv4.conf.lxcbr0.forwarding=0")
    assert failed(await routed.verify()) == dict.fromkeys(CROSSING, (Cause.FORWARD, "host1"))


async def test_reverse_path(routed: World) -> None:
    """The way back to a2 is by the underlay: what it sends is dropped where it comes in."""
    routed.on("host1", "ip route add 10.9.1.3/32 via 192.168.1.1")
    lost = {ends for ends in with_box("a2") if ends in CROSSING} | {("a2", "gateway")}
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.REVERSE_PATH, "host1"))


async def test_reverse_path_in_a_box(routed: World) -> None:
    """Nothing of what it drops can be seen from outside: its own count tells."""
    routed.on("b1", "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip link add d0 type bridge && ip link set d0 up")
    routed.on("b1", "ip address add 10.8.0.1/24 dev d0 && ip route add 10.9.1.0/24 dev d0")
    lost = {ends for ends in with_box("b1") if ends in CROSSING}
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.REVERSE_PATH, "host2"))


async def test_an_mtu_hole_between_the_hosts(routed: World) -> None:
    routed.on("router", "ip link set host2 mtu 1400")
    pairs = await routed.verify()
    assert {ends: cause for ends, (cause, _) in failed(pairs).items()} == dict.fromkeys(CROSSING, Cause.MTU)
    assert all(pair.reached and not pair.full_mtu for pair in pairs if not pair.ok)


async def test_a_tunnel_that_is_too_narrow(routed: World) -> None:
    routed.on("host1", "ip link set t192.168.2.26 mtu 1300")
    # What host1 sends there is cut in two where it may be: answers may (icmp(7)), questions here may not.
    lost = {ends for ends in CROSSING if BOXES[ends[0]] == "host1"}
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.MTU, "host1"))


async def test_a_box_that_is_too_narrow(routed: World) -> None:
    routed.on("b1", "ip link set eth0 mtu 1300")
    found = failed(await routed.verify())
    assert set(found.values()) == {(Cause.MTU, "host2")}
    # What comes to it out of a BPF tunnel is not measured at its port, and its answers may be cut in two.
    asking = {("b1", name) for name in (*BOXES, "gateway") if name != "b1"} | {("b2", "b1")}
    assert asking <= found.keys() <= with_box("b1", gateway=True)


async def test_a_bridge_that_is_down(routed: World) -> None:
    routed.on("host2", "ip link set lxcbr0 down")
    assert failed(await routed.verify()) == dict.fromkeys(
        with_box("b1", "b2", gateway=True), (Cause.LINK_DOWN, "host2")
    )


async def test_a_peers_agent_that_is_down(routed: World) -> None:
    """The boxes there still answer: who asks them sees it."""
    await routed.stop_agent("host2")
    lost = {(one, other) for one, other in with_box("b1", "b2", gateway=True) if BOXES[one] == "host2"}
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.AGENT_DOWN, "host2"))


async def test_a_peer_that_is_down_with_its_agent(routed: World) -> None:
    await routed.stop_agent("host2")
    routed.on("host2", "ip link set eth0 down")
    lost = with_box("b1", "b2", gateway=True)
    assert failed(await routed.verify()) == dict.fromkeys(lost, (Cause.AGENT_DOWN, "host2"))


async def test_a_box_that_does_not_run(routed: World) -> None:
    boxes = routed.boxes["host2"]
    boxes.stop(boxes.containers["demo.b2"])
    assert failed(await routed.verify()) == dict.fromkeys(with_box("b2", gateway=True), (Cause.NOT_RUNNING, "host2"))


# ---- routed by VXLAN


async def test_all_is_well_in_vxlan(wrapped: World) -> None:
    assert failed(await wrapped.verify()) == {}


async def test_vxlan_is_dropped_between_the_hosts(wrapped: World) -> None:
    wrapped.on("router", f"nft '{NFT_FORWARD.format('ip', 'accept')} add rule ip t c udp dport 4789 drop'")
    pairs = await wrapped.verify()
    assert failed(pairs) == dict.fromkeys(CROSSING, (Cause.TUNNEL, ""))
    assert all("UDP to port 4789" in pair.verdict.hint for pair in pairs if pair.verdict)


async def test_vxlan_that_its_host_filters(wrapped: World) -> None:
    chain = "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; };"
    rules = "add rule inet t c ip protocol icmp accept; add rule inet t c ct state established accept"
    wrapped.on("host2", f"nft '{chain} {rules}'")
    found = failed(await wrapped.verify())
    assert found
    assert found.keys() <= CROSSING
    assert set(found.values()) == {(Cause.FILTERED, "host2")}


async def test_no_route_by_vxlan(wrapped: World) -> None:
    wrapped.on("host1", "ip route del 10.9.2.0/24")
    assert failed(await wrapped.verify()) == dict.fromkeys(CROSSING, (Cause.NO_ROUTE, "host1"))


# ---- tagged: a VLAN on the trunks


async def test_all_is_well_in_a_vlan(tagged: World) -> None:
    pairs = await tagged.verify()
    assert failed(pairs) == {}
    assert {(pair.source, pair.target) for pair in pairs if pair.ok} == with_box(*BOXES)


async def test_a_wrong_vid_on_a_host(tagged: World) -> None:
    (vlan,) = [link for link in tagged.desired["host2"].state.links if isinstance(link, Vlan)]
    tagged.doors["host2"].delete(vlan)
    tagged.doors["host2"].create(replace(vlan, vid=101))
    assert failed(await tagged.verify()) == dict.fromkeys(CROSSING, (Cause.WRONG_VLAN, "host2"))


async def test_a_trunk_that_does_not_carry_the_vlan(tagged: World) -> None:
    tagged.on("trunk", f"nft '{NFT_FORWARD.format('bridge', 'accept')} add rule bridge t c vlan id 100 drop'")
    pairs = await tagged.verify()
    assert failed(pairs) == dict.fromkeys(CROSSING, (Cause.WRONG_VLAN, ""))
    assert "wrong VLAN: frames with VID 100 leave host1 by eth1 and do not come to host2" in {
        pair.cause for pair in pairs
    }


async def test_a_port_on_another_bridge(tagged: World) -> None:
    tagged.on("host2", "ip link add other type bridge && ip link set other up && ip link set demo.b1 master other")
    assert failed(await tagged.verify()) == dict.fromkeys(with_box("b1"), (Cause.WRONG_VLAN, "host2"))


async def test_a_trunk_that_is_down(tagged: World) -> None:
    tagged.on("host1", "ip link set eth1 down")
    assert failed(await tagged.verify()) == dict.fromkeys(CROSSING, (Cause.LINK_DOWN, "host1"))


async def test_an_answer_that_is_lost_is_told_from_a_question_that_is(tagged: World) -> None:
    rules = "add table ip t; add chain ip t o { type filter hook output priority 0; }"
    tagged.on("b1", f"nft '{rules}; add rule ip t o icmp type echo-reply ip daddr 10.9.0.11 drop'")
    pairs = await tagged.verify()
    assert failed(pairs) == {("a1", "b1"): (Cause.UNKNOWN, "")}
    assert {pair.cause for pair in pairs} == {"", "the answer does not come back"}


async def test_a_translated_source(tagged: World) -> None:
    rules = "add table ip t; add chain ip t p { type nat hook postrouting priority 100; }"
    tagged.on("a1", "ip address add 10.9.0.99/24 dev eth0")
    tagged.on("a1", f"nft '{rules}; add rule ip t p ip daddr 10.9.0.13 snat to 10.9.0.99'")
    pairs = await tagged.verify()
    assert failed(pairs) == {("a1", "b1"): (Cause.WRONG_SOURCE, "host1")}
    assert "wrong source: it arrives as 10.9.0.99" in {pair.cause for pair in pairs}


async def test_a_duplicate_address(tagged: World) -> None:
    twin, host = tagged.namespaces.add("twin"), tagged.netns["host2"]
    run(
        f"ip link add twin netns {host} type veth peer name eth0 netns {twin} && ip -n {twin} link set eth0 up"
        f" && ip -n {twin} address add 10.9.0.12/24 dev eth0 && ip -n {host} link set twin master lxcbr100 up"
    )
    mac = oracle.links(twin)["eth0"]["address"]
    pairs = await tagged.verify()
    found = failed(pairs)
    asking = {(name, "a2") for name in BOXES if name != "a2"}
    assert {ends: found[ends] for ends in asking} == dict.fromkeys(asking, (Cause.DUPLICATE, "host1"))
    assert f"duplicate address: 10.9.0.12 is also {mac}'s" in {pair.cause for pair in pairs}
    # The two may answer for each other; nobody else is touched.
    assert found.keys() <= with_box("a2")
