"""Routed networks: packets that leave by a tunnel are taken at its other end, and answered by it."""

from __future__ import annotations

import dataclasses
import itertools
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiling import (
    Compiled,
    Facts,
    HostFacts,
    Remembered,
    Way,
    compile_cluster,
    pair_of,
    to_document,
)
from coordinator.compiling.overlay import PAIRED_MAX
from coordinator.config import ClusterFile, ConfigError, ContainerSpec, Host, RoutedNetwork, load_bytes
from coordinator.config.check_routed import make_blocks
from coordinator.config.cluster import OVERLAYS
from coordinator.nova.roles import ROLES
from proto.marks import TUNNEL_TABLE, Mark
from proto.model import Bridge, HostState, Ipip, Route, Vxlan
from proto.model.network import TABLE_MAIN
from proto.names import IFNAME_MAX, make_ipip_name

PEERS = [IPv4Address("172.16.9.1"), IPv4Address("172.16.9.2"), IPv4Address("172.16.0.1"), IPv4Address("172.16.0.3")]


@st.composite
def clusters(draw: st.DrawFn) -> ClusterFile:
    count = draw(st.integers(1, 6) | st.just(PAIRED_MAX + 1))
    hosts = {f"h{i}": Host(name=f"h{i}", address=IPv4Address("172.16.0.1") + i) for i in range(count)}
    networks = {}
    overlay = draw(st.sampled_from(OVERLAYS))
    for index in range(draw(st.integers(1, 3))):
        start = IPv4Network(f"10.{index}.0.0/{draw(st.integers(22, 28))}")
        peers = tuple(draw(st.lists(st.sampled_from(PEERS), max_size=3, unique=True)))
        networks[f"n{index}"] = RoutedNetwork(
            name=f"n{index}", blocks=make_blocks(start, list(hosts)), tunnel_to=peers, overlay=overlay
        )
    known = {host.address for host in hosts.values()}
    others = {peer for network in networks.values() for peer in network.tunnel_to} - known
    peers_only = {str(peer): Host(name=str(peer), address=peer, is_peer=True) for peer in sorted(others)}
    places = draw(
        st.lists(st.tuples(st.sampled_from(sorted(hosts)), st.sampled_from(sorted(networks))), min_size=1, max_size=12)
    )
    containers = {
        f"c{i}": ContainerSpec(name=f"c{i}", host=host, network=network, roles=ROLES if i == 0 else ("compute",))
        for i, (host, network) in enumerate(places)
    }
    return ClusterFile(name="x", hosts=hosts | peers_only, natbox=None, networks=networks, containers=containers)


@st.composite
def cases(draw: st.DrawFn) -> tuple[ClusterFile, Facts]:
    """A file, and facts that know the way between some of its hosts."""
    file = draw(clusters())
    methods = st.sampled_from(("direct", "ipip", "vxlan", ""))
    pairs = {pair_of(*pair): draw(methods) for pair in itertools.combinations(list(file.hosts)[:7], 2)}
    found = {pair: Way(method=method, why="drawn") for pair, method in pairs.items() if method}
    return file, Facts(hosts={}, pairs=found)


def _states(compiled: Compiled) -> dict[str, HostState]:
    return {name: host.state for name, host in compiled.hosts.items()}


def _leave(state: HostState, src: IPv4Address, dst: IPv4Address) -> tuple[str, IPv4Address | None]:
    """The device and far end that a packet leaves by, as the kernel would choose it among our routes."""
    tables = [TABLE_MAIN]
    for rule in state.rules:
        if (rule.src is None or src in rule.src) and (rule.dst is None or dst in rule.dst):
            tables.insert(0, rule.table)
    for table in tables:
        for route in sorted(state.routes, key=lambda route: -route.dst.prefixlen):
            if route.table == table and dst in route.dst:
                return route.dev, _end_of(state, route)
    return "none", None


def _end_of(state: HostState, route: Route) -> IPv4Address | None:
    """The host that the packets of *route* go to, by its underlay address."""
    if not route.dev:
        assert (route.encap, route.table) == (None, TABLE_MAIN)
        return route.via
    (link,) = (link for link in state.links if link.name == route.dev)
    assert route.via is None
    return (link.remote or route.encap) if isinstance(link, Ipip | Vxlan) else None


@given(cases())
@settings(max_examples=200, deadline=None)
def test_every_packet_of_the_overlay_is_taken_and_answered_by_the_same_tunnel(case: tuple[ClusterFile, Facts]) -> None:
    file, facts = case
    states = _states(compile_cluster(file, facts))
    ends = {host.address: name for name, host in file.hosts.items()}
    pairs = []
    for name, state in states.items():
        for one in state.containers:
            network = file.networks[file.containers[one.hostname].network]
            assert isinstance(network, RoutedNetwork)
            pairs += [
                (name, one.nic.address.ip, other, two.nic.address.ip)
                for other, there in states.items()
                for two in there.containers
                if other != name
            ]
            pairs += [(name, one.nic.address.ip, ends[peer], peer) for peer in network.tunnel_to if ends[peer] != name]
    for host, src, far, dst in [*pairs, *((far, dst, host, src) for host, src, far, dst in pairs)]:
        device, end = _leave(states[host], src, dst)
        assert end == file.hosts[far].address, (host, src, far, dst)
        back, _ = _leave(states[far], dst, src)
        accepted = [route.dst for route in states[far].routes if route.dev == back]
        assert any(src in block for block in accepted), (host, src, far, dst, device)
        for rule in states[host].masquerades:
            assert src not in rule.source or any(dst in subnet for subnet in rule.exempt)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_what_a_host_itself_sends_has_a_source_that_the_far_end_takes(case: tuple[ClusterFile, Facts]) -> None:
    file, facts = case
    states = _states(compile_cluster(file, facts))
    ends = {host.address: name for name, host in file.hosts.items()}
    for name, state in states.items():
        for route in state.routes:
            end = _end_of(state, route)
            assert end is not None
            far = ends[end]
            if route.table == TABLE_MAIN:
                assert route.src is not None
                back, end = _leave(states[far], route.dst.network_address + 2, route.src)
                assert end == file.hosts[name].address
                assert any(route.src in one.dst for one in states[far].routes if one.dev == back)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_every_tunnel_has_its_other_end_and_two_clusters_share_it(case: tuple[ClusterFile, Facts]) -> None:
    file, facts = case
    compiled = compile_cluster(file, facts)
    states = _states(compiled)
    ends = {
        (link.local, link.remote): link.mtu
        for state in states.values()
        for link in state.links
        if isinstance(link, Ipip)
    }
    for (local, remote), mtu in ends.items():
        assert remote is None or ends[remote, local] == mtu
    other = compile_cluster(dataclasses.replace(file, name="y"), facts)
    for name, state in _states(other).items():
        tunnels = HostState(links=tuple(link for link in state.links if isinstance(link, Ipip | Vxlan)))
        used = {route.dev for route in state.routes if route.dev}
        assert used == {link.name for link in tunnels.links}
        assert states[name].union(tunnels) == states[name]
        for link in tunnels.links:
            assert link.mark == Mark("host", link.name)
            assert len(link.name) <= IFNAME_MAX
    assert to_document(compile_cluster(file, facts)) == to_document(compiled)


@given(clusters())
@settings(max_examples=100, deadline=None)
def test_a_container_is_in_its_hosts_block_behind_its_bridge(file: ClusterFile) -> None:
    for name, state in _states(compile_cluster(file)).items():
        addresses = {address.link: address.address for address in state.addresses}
        assert {link.name for link in state.links if isinstance(link, Bridge)} == set(addresses)
        if addresses:
            assert "lxcbr0" in addresses
        for one in state.containers:
            network = file.networks[file.containers[one.hostname].network]
            assert isinstance(network, RoutedNetwork)
            bridge = addresses[one.nic.bridge]
            assert bridge.network == one.nic.address.network == network.blocks[name]
            assert bridge.ip == network.blocks[name].network_address + 1 == one.nic.gateway
            assert {entry.names[0] for entry in one.hosts} == set(file.containers)


TWO = b"""\
name: demo
hosts:
  h1: {address: 192.168.2.25}
  h2: {address: 192.168.2.26}
networks:
  a: {subnet: 10.100.1.0/24, overlay: OVERLAY}
containers:
  c1: {host: h1, network: a, roles: [controller]}
  c2: {host: h2, network: a, roles: [compute]}
"""


def _load(overlay: str = "ipip") -> ClusterFile:
    return load_bytes(TWO.replace(b"OVERLAY", overlay.encode()), file="demo.yaml")


def _facts(*mtus: int, taken: frozenset[str] = frozenset()) -> Facts:
    hosts = {f"h{i + 1}": HostFacts(links={"eth0": mtu}, underlay_mtu=mtu, taken=taken) for i, mtu in enumerate(mtus)}
    return Facts(hosts=hosts)


def test_the_smallest_underlay_decides_every_mtu() -> None:
    state = _states(compile_cluster(_load(), _facts(9000, 1400)))["h1"]
    assert {link.mtu for link in state.links} == {1380}
    assert state.containers[0].nic.mtu == 1380


def test_containers_that_run_with_more_than_the_tunnels_carry_are_a_mistake() -> None:
    before = compile_cluster(_load(), _facts(1500, 1500))
    remembered = Remembered.of({name: host.state.containers for name, host in before.hosts.items()})
    with pytest.raises(ConfigError, match="the tunnels carry 1380, but its containers run with MTU 1480"):
        compile_cluster(_load(), _facts(1500, 1400), remembered)


def test_lxcbr0_is_left_to_the_cluster_that_has_it_and_a_running_bridge_stays() -> None:
    taken = frozenset({"lxcbr0"})
    second = compile_cluster(_load(), _facts(1500, 1500, taken=taken))
    assert second.hosts["h1"].state.containers[0].nic.bridge == "br-demo.a"
    remembered = Remembered.of({name: host.state.containers for name, host in second.hosts.items()})
    later = compile_cluster(_load(), _facts(1500, 1500), remembered)
    assert later.hosts["h1"].state.containers[0].nic.bridge == "br-demo.a"


@given(cases())
@settings(max_examples=100, deadline=None)
def test_a_pair_takes_the_way_that_was_found_and_what_is_tunnelled_to_always_ipip(
    case: tuple[ClusterFile, Facts],
) -> None:
    file, facts = case
    compiled = compile_cluster(file, facts)
    ends = {host.address: name for name, host in file.hosts.items()}
    overlay = next(iter(file.routed.values())).overlay
    tunnelled = {
        pair_of(spec.host, ends[peer])
        for spec in file.containers.values()
        for peer in file.routed[spec.network].tunnel_to
    }
    homes = {spec.host for spec in file.containers.values()}
    unprobed = 0
    for one, other in itertools.combinations(file.hosts, 2):
        pair = pair_of(one, other)
        found = _ways(compiled.hosts[one].state, file.hosts[other].address)
        assert found == _ways(compiled.hosts[other].state, file.hosts[one].address)
        if pair in tunnelled:
            assert found == {"ipip"}
        elif not {one, other} <= homes:
            assert found == set()
        elif overlay == "auto" and pair not in facts.pairs:
            assert found == {"ipip"}
            unprobed += 1
        else:
            assert found == {facts.pairs[pair].method if overlay == "auto" else overlay}
    assert any("overlay auto" in warning for warning in compiled.warnings) == bool(unprobed)


def _ways(state: HostState, far: IPv4Address | None) -> set[str]:
    kinds = {link.name: link.kind for link in state.links}
    return {kinds.get(route.dev, "direct") for route in state.routes if _end_of(state, route) == far}


@pytest.mark.parametrize(("overlay", "mtu"), [("direct", 1400), ("ipip", 1380), ("vxlan", 1350), ("auto", 1380)])
def test_each_way_leaves_its_room(overlay: str, mtu: int) -> None:
    for name, host in compile_cluster(_load(overlay), _facts(9000, 1400)).hosts.items():
        (bridge,) = (link for link in host.state.links if isinstance(link, Bridge))
        assert bridge.mtu == host.state.containers[0].nic.mtu == mtu
        for link in host.state.links:
            if isinstance(link, Vxlan):
                assert link.mtu == {"h1": 8950, "h2": 1350}[name], "it follows from the host alone"


def test_the_narrowest_pair_decides() -> None:
    way = Way(method="vxlan", why="drawn")
    facts = dataclasses.replace(_facts(1500, 1500), pairs={("h1", "h2"): way})
    assert compile_cluster(_load("auto"), facts).hosts["h1"].state.containers[0].nic.mtu == 1450
    facts = dataclasses.replace(facts, pairs={("h1", "h2"): dataclasses.replace(way, method="direct")})
    assert compile_cluster(_load("auto"), facts).hosts["h1"].state.containers[0].nic.mtu == 1500


def test_a_direct_route_names_its_next_hop_and_no_link() -> None:
    document = to_document(compile_cluster(_load("direct")))
    assert document["hosts"]["h1"]["routes"] == [
        {"dst": "10.100.2.0/24", "dev": None, "via": "192.168.2.26", "src": "10.100.1.1", "table": TABLE_MAIN}
    ]
    assert [link["kind"] for link in document["hosts"]["h1"]["links"]] == ["bridge"]


def test_auto_without_facts_is_ipip_and_says_so() -> None:
    compiled = compile_cluster(_load("auto"))
    assert [link.kind for link in compiled.hosts["h1"].state.links] == ["bridge", "ipip"]
    assert "overlay auto: h1 and h2 were not probed: ipip is taken for them" in compiled.warnings


def test_many_hosts_have_one_tunnel_each_and_routes_that_say_where_it_leads() -> None:
    hosts = {f"h{i}": Host(name=f"h{i}", address=IPv4Address("172.16.0.1") + i) for i in range(PAIRED_MAX + 1)}
    network = RoutedNetwork(name="n", blocks=make_blocks(IPv4Network("10.0.0.0/28"), list(hosts)))
    containers = {
        f"c{name}": ContainerSpec(
            name=f"c{name}", host=name, network="n", roles=ROLES if name == "h0" else ("compute",)
        )
        for name in hosts
    }
    file = ClusterFile(name="x", hosts=hosts, natbox=None, networks={"n": network}, containers=containers)
    state = compile_cluster(file).hosts["h0"].state
    (tunnel,) = (link for link in state.links if isinstance(link, Ipip))
    assert tunnel.remote is None
    assert {route.encap for route in state.routes} == {host.address for name, host in hosts.items() if name != "h0"}
    assert TUNNEL_TABLE not in {route.table for route in state.routes}


def test_names_of_tunnels() -> None:
    here = IPv4Address("10.0.0.1")
    assert make_ipip_name(here, IPv4Address("192.168.1.13")) == "t192.168.1.13"
    long = make_ipip_name(here, IPv4Address("192.168.100.100"))
    assert len(long) == IFNAME_MAX
    assert long != make_ipip_name(here, IPv4Address("192.168.100.101"))
    assert make_ipip_name(here, None) == "tunnels"


def _forwarding(count: int) -> ClusterFile:
    host = Host(name="h", address=IPv4Address("172.16.0.1"))
    network = RoutedNetwork(name="n", blocks=make_blocks(IPv4Network("10.0.0.0/24"), ["h"]))
    containers = {
        f"c{index}": ContainerSpec(
            name=f"c{index}", host="h", network="n", roles=ROLES if not index else ("compute",), forward_ssh=True
        )
        for index in range(count)
    }
    return ClusterFile(name="x", hosts={"h": host}, natbox=None, networks={"n": network}, containers=containers)


def _ports(compiled: Compiled) -> dict[str, int]:
    return {forward.mark.object: forward.port for forward in compiled.hosts["h"].state.forwards}


def test_forwarded_ports_pass_over_those_that_others_have() -> None:
    facts = Facts(hosts={"h": HostFacts(links={}, taken_ports=frozenset({1222, 1224}))})
    assert _ports(compile_cluster(_forwarding(3), facts)) == {"c0": 1223, "c1": 1225, "c2": 1226}


def test_a_container_keeps_its_forwarded_port() -> None:
    """Also where it was given while others had lower ones, and where somebody listens on it meanwhile."""
    first = compile_cluster(
        _forwarding(2), Facts(hosts={"h": HostFacts(links={}, taken_ports=frozenset({1222, 1223}))})
    )
    assert _ports(first) == {"c0": 1224, "c1": 1225}
    seen = Remembered.of({"h": first.hosts["h"].state.containers}, ports=_ports(first))
    facts = Facts(hosts={"h": HostFacts(links={}, taken_ports=frozenset({1224}))})
    assert _ports(compile_cluster(_forwarding(3), facts, seen)) == {"c0": 1224, "c1": 1225, "c2": 1222}
