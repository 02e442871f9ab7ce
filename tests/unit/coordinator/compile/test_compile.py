"""What a cluster file comes to on each host and at NATBox, and what facts and running containers change of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from coordinator.compiling import Compiled, Facts, HostFacts, Remembered, compile_cluster, to_document
from coordinator.compiling import allocate as allocation
from coordinator.compiling.compile import NO_FACTS
from coordinator.config import ClusterFile, ConfigError, load_bytes, load_file
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import (
    Address,
    Bridge,
    Container,
    GatewayTable,
    HostEntry,
    HostState,
    Neighbour,
    Route,
    Rule,
    Vlan,
)

ROOT = Path(__file__).parents[4]
BASE = """\
name: demo
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
  host2: {address: 192.168.2.26, trunk: eth1}
natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}
containers:
"""
ONE = "  ubuntu011: {host: host1, network: cluster, address: 192.168.10.50, roles: [controller, compute]}\n"
TWO = "  ubuntu012: {host: host2, network: cluster, address: 192.168.10.51, roles: [compute]}\n"


def _load(text: str) -> ClusterFile:
    return load_bytes(text.encode(), file="demo.yaml")


def _containers(compiled: Compiled) -> dict[str, Container]:
    return {one.hostname: one for host in compiled.hosts.values() for one in host.state.containers}


def _remember(compiled: Compiled) -> Remembered:
    return Remembered.of({name: host.state.containers for name, host in compiled.hosts.items()})


def _facts(mtus: Mapping[str, int], *, natbox: int | None = None) -> Facts:
    return Facts(
        hosts={name: HostFacts(links={"eth0": 1500, "eth1": mtu}) for name, mtu in mtus.items()},
        natbox=None if natbox is None else HostFacts(links={"eth1": natbox, "eth2": 1500}),
    )


def test_a_vlan_network_is_a_bridge_and_a_vlan_of_the_trunk() -> None:
    host = compile_cluster(_load(BASE + ONE)).hosts["host1"]
    mark = Mark("demo", "cluster")
    assert (host.cluster, host.host, host.generation) == ("demo", "host1", 1)
    assert set(host.state.links) == {
        Bridge(name="lxcbr100", mtu=1500, mark=mark),
        Vlan(name="eth1.100", parent="eth1", vid=100, mtu=1500, master="lxcbr100", mark=mark),
    }
    assert not any((host.state.addresses, host.state.routes, host.state.rules, host.state.masquerades))


def test_a_host_without_containers_gets_nothing() -> None:
    compiled = compile_cluster(_load(BASE + ONE))
    assert compiled.hosts["host2"].state == type(compiled.hosts["host2"].state)()


def test_the_container() -> None:
    container = _containers(compile_cluster(_load(BASE + ONE)))["ubuntu011"]
    assert (container.name, container.image, container.clone_of, container.running) == (
        "demo.ubuntu011",
        "nova-controller",
        "",
        True,
    )
    nic = container.nic
    assert (nic.bridge, nic.port, nic.mtu) == ("lxcbr100", "demo.ubuntu011", 1500)
    assert (nic.address, nic.gateway) == (IPv4Interface("192.168.10.50/24"), IPv4Address("192.168.10.1"))
    first = int(nic.mac[:2], 16)
    assert first & 2, "locally administered"
    assert not first & 1, "not multicast"


def test_what_holds_only_compute_starts_from_the_compute_image() -> None:
    text = BASE + ONE.replace("controller, compute", "controller") + TWO
    images = {name: one.image for name, one in _containers(compile_cluster(_load(text))).items()}
    assert images == {"ubuntu011": "nova-controller", "ubuntu012": "nova-compute"}


def test_a_container_knows_itself_and_the_holders_of_controller_roles_only() -> None:
    split = (
        "  api: {host: host1, network: cluster, address: 192.168.10.60, roles: [keystone, glance, placement, nova-api,"
        " nova-conductor, nova-scheduler]}\n"
        "  db: {host: host2, network: cluster, address: 192.168.10.59, roles: [database, messaging]}\n"
    )
    containers = _containers(compile_cluster(_load(BASE + split + TWO)))
    api = HostEntry(address=IPv4Address("192.168.10.60"), names=("api",))
    db = HostEntry(address=IPv4Address("192.168.10.59"), names=("db",))
    own = HostEntry(address=IPv4Address("192.168.10.51"), names=("ubuntu012",))
    assert containers["ubuntu012"].hosts == (own, db, api)
    assert containers["api"].hosts == (api, db)


def test_one_more_compute_changes_nothing_on_what_is_there() -> None:
    before = compile_cluster(_load(BASE + ONE))
    after = compile_cluster(_load(BASE + TWO + ONE), None, _remember(before))
    assert after.hosts["host1"] == before.hosts["host1"]
    assert [one.hostname for one in after.hosts["host2"].state.containers] == ["ubuntu012"]
    assert after.removed == ()


def test_natbox_learns_the_gateway_and_all_neighbours() -> None:
    compiled = compile_cluster(_load(BASE + TWO + ONE), generation=7)
    macs = {name: one.nic.mac for name, one in _containers(compiled).items()}
    assert isinstance(compiled.natbox, GatewayTable)
    assert compiled.natbox.generation == 7
    (gateway,) = compiled.natbox.gateways
    assert (gateway.name, gateway.vid, gateway.gateway) == ("demo/cluster", 100, IPv4Interface("192.168.10.1/24"))
    assert gateway.neighbours == (
        Neighbour(address=IPv4Address("192.168.10.50"), mac=macs["ubuntu011"]),
        Neighbour(address=IPv4Address("192.168.10.51"), mac=macs["ubuntu012"]),
    )


def test_a_network_without_gateway_is_none_of_natbox_s_business() -> None:
    text = (BASE + ONE).replace(", gateway: 192.168.10.1", "")
    compiled = compile_cluster(_load(text))
    assert compiled.natbox is not None
    assert compiled.natbox.gateways == ()
    assert _containers(compiled)["ubuntu011"].nic.gateway is None
    without = "\n".join(line for line in text.splitlines() if not line.startswith("natbox"))
    assert compile_cluster(_load(without)).natbox is None


# Addresses and MACs


def test_addresses_left_out_are_the_lowest_free_ones_in_the_file_s_order() -> None:
    text = BASE.replace("192.168.10.0/24, gateway: 192.168.10.1", "192.168.10.0/29, gateway: 192.168.10.2")
    text += "  a: {host: host1, network: cluster, roles: [controller]}\n"
    text += "  b: {host: host1, network: cluster, address: 192.168.10.3, roles: [compute]}\n"
    text += "".join(f"  c{n}: {{host: host2, network: cluster, roles: [compute]}}\n" for n in range(3))
    found = {name: str(one.nic.address) for name, one in _containers(compile_cluster(_load(text))).items()}
    assert found == {
        "a": "192.168.10.1/29",
        "b": "192.168.10.3/29",
        "c0": "192.168.10.4/29",
        "c1": "192.168.10.5/29",
        "c2": "192.168.10.6/29",
    }


def test_a_chosen_address_and_mac_stay_whatever_comes_before_in_the_file() -> None:
    auto = "  {name}: {{host: host1, network: cluster, roles: [{role}]}}\n"
    one = BASE + auto.format(name="m", role="controller")
    before = compile_cluster(_load(one))
    two = BASE + auto.format(name="a", role="compute") + auto.format(name="m", role="controller")
    after = _containers(compile_cluster(_load(two), None, _remember(before)))
    assert after["m"] == _containers(before)["m"]
    assert after["a"].nic.address.ip == IPv4Address("192.168.10.3")


def test_an_address_that_a_running_container_was_given_cannot_be_another_s() -> None:
    auto = BASE + "  m: {host: host1, network: cluster, roles: [controller]}\n"
    before = compile_cluster(_load(auto))
    taken = auto + "  n: {host: host1, network: cluster, address: 192.168.10.2, roles: [compute]}\n"
    with pytest.raises(ConfigError, match=r"demo.yaml:10: containers.n.address: 192.168.10.2 is what running .* m was"):
        compile_cluster(_load(taken), None, _remember(before))


def test_the_address_may_be_written_down_later() -> None:
    auto = BASE + "  m: {host: host1, network: cluster, roles: [controller]}\n"
    before = compile_cluster(_load(auto))
    written = auto.replace("cluster, roles", "cluster, address: 192.168.10.2, roles")
    assert compile_cluster(_load(written), None, _remember(before)).hosts == before.hosts


def test_macs_depend_on_cluster_and_name_and_on_nothing_else() -> None:
    mac = _containers(compile_cluster(_load(BASE + ONE)))["ubuntu011"].nic.mac
    moved = (BASE + ONE).replace("host: host1", "host: host2").replace("10.50", "10.77")
    assert _containers(compile_cluster(_load(moved)))["ubuntu011"].nic.mac == mac
    other = (BASE + ONE).replace("name: demo", "name: other")
    assert _containers(compile_cluster(_load(other)))["ubuntu011"].nic.mac != mac


def test_two_names_of_one_hash_get_two_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_make_mac", lambda cluster, container, attempt: f"02:00:00:00:00:{attempt:02x}")
    three = ONE + TWO + TWO.replace("ubuntu012", "ubuntu013").replace("10.51", "10.52")
    macs = [one.nic.mac for one in _containers(compile_cluster(_load(BASE + three))).values()]
    assert sorted(macs) == ["02:00:00:00:00:00", "02:00:00:00:00:01", "02:00:00:00:00:02"]


# Facts


def test_without_facts_the_mtu_is_assumed_with_one_warning() -> None:
    assert compile_cluster(_load(BASE + ONE)).warnings == (NO_FACTS,)
    assert compile_cluster(_load(BASE + ONE), _facts({"host1": 1500, "host2": 1500})).warnings == ()


def test_the_mtu_of_a_network_is_that_of_its_smallest_trunk() -> None:
    compiled = compile_cluster(_load(BASE + ONE + TWO), _facts({"host1": 9000, "host2": 8000}, natbox=8500))
    for host in compiled.hosts.values():
        assert {link.mtu for link in host.state.links} == {8000}
        assert {one.nic.mtu for one in host.state.containers} == {8000}


def test_natbox_s_trunk_counts_where_the_network_has_a_gateway() -> None:
    facts = _facts({"host1": 9000, "host2": 9000}, natbox=1400)
    assert _containers(compile_cluster(_load(BASE + ONE), facts))["ubuntu011"].nic.mtu == 1400
    island = (BASE + ONE).replace(", gateway: 192.168.10.1", "")
    assert _containers(compile_cluster(_load(island), facts))["ubuntu011"].nic.mtu == 9000


def test_a_host_without_containers_does_not_lower_the_mtu() -> None:
    compiled = compile_cluster(_load(BASE + ONE), _facts({"host1": 9000, "host2": 1400}))
    assert _containers(compiled)["ubuntu011"].nic.mtu == 9000


def test_running_containers_keep_their_mtu() -> None:
    before = compile_cluster(_load(BASE + ONE), _facts({"host1": 1500, "host2": 1500}))
    after = compile_cluster(_load(BASE + ONE + TWO), _facts({"host1": 9000, "host2": 9000}), _remember(before))
    assert after.hosts["host1"] == before.hosts["host1"]
    assert _containers(after)["ubuntu012"].nic.mtu == 1500
    with pytest.raises(ConfigError, match=r"hosts.host2.trunk: eth1 has MTU 1400, but .* run with 1500") as caught:
        compile_cluster(_load(BASE + ONE + TWO), _facts({"host1": 1500, "host2": 1400}), _remember(before))
    assert "ip link set eth1 mtu 1500" in caught.value.hint


def test_a_trunk_that_is_not_there_is_named_with_the_nearest() -> None:
    facts = Facts(hosts={"host1": HostFacts(links={"lo": 65536, "eth0": 1500, "ens1": 1500})})
    with pytest.raises(ConfigError, match=r"demo.yaml:3: hosts.host1.trunk: there is no link 'eth1'") as caught:
        compile_cluster(_load(BASE + ONE), facts)
    assert caught.value.hint == "it has ens1, eth0, lo"


def test_a_host_that_nobody_asked_is_warned_of() -> None:
    warnings = compile_cluster(_load(BASE + ONE), _facts({"host1": 1500})).warnings
    assert warnings == ("nothing is known of host2: MTU 1500 is assumed there",)


@pytest.mark.parametrize(
    ("route", "overlaps"),
    [("192.168.0.0/16", True), ("192.168.2.0/24", False), ("0.0.0.0/0", False), ("192.168.10.0/25", False)],
)
def test_a_subnet_over_the_route_that_the_hosts_live_in_is_refused(route: str, overlaps: bool) -> None:
    facts = Facts(hosts={"host1": HostFacts(links={"eth1": 1500}, routes=(IPv4Network(route),))})
    if not overlaps:
        assert compile_cluster(_load(BASE + ONE), facts).hosts
        return
    with pytest.raises(ConfigError, match=r"overlaps the underlay: host1 has a route to 192.168.0.0/16"):
        compile_cluster(_load(BASE + ONE), facts)


def test_nova_in_several_vlans_is_warned_of() -> None:
    text = (BASE + ONE + TWO.replace("network: cluster, address: 192.168.10.51", "network: far")).replace(
        "networks:\n", "networks:\n  far: {vlan: 101, subnet: 10.0.0.0/24}\n"
    )
    warnings = compile_cluster(_load(text)).warnings
    assert len(warnings) == 2
    assert "several VLANs (cluster, far)" in warnings[1]


# What runs is kept


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("{host: host2", "{host: host1", 10, "move it from host2 to host1"),
        ("10.51", "10.99", 10, "renumber it from 192.168.10.51 to 192.168.10.99"),
        ("vlan: 100", "vlan: 101", 9, "move it from bridge lxcbr100 to lxcbr101"),
        ("192.168.10.0/24", "192.168.10.0/25", 9, "change its prefix length from 192.168.10.50/24 to 192.168.10.50/25"),
        ("gateway: 192.168.10.1", "gateway: 192.168.10.2", 9, "change its gateway from 192.168.10.1 to 192.168.10.2"),
        ("[controller, compute]", "[compute]", 9, "make it again from image nova-compute instead of nova-controller"),
    ],
)
def test_what_would_move_renumber_or_remake_is_refused(old: str, new: str, line: int, says: str) -> None:
    text = BASE + ONE + TWO
    before = compile_cluster(_load(text))
    assert text.count(old) == 1
    changed = text.replace(old, new)
    if "[compute]" in new:
        changed += "  other: {host: host1, network: cluster, roles: [controller]}\n"
    with pytest.raises(ConfigError) as caught:
        compile_cluster(_load(changed), None, _remember(before))
    assert caught.value.code is Code.REFUSED
    first = caught.value.problems[0]
    assert (first.file, first.line) == ("demo.yaml", line)
    assert says in first.message
    assert "--remove" in first.hint


def test_every_container_that_would_change_is_listed() -> None:
    before = compile_cluster(_load(BASE + ONE + TWO))
    changed = (BASE + ONE + TWO).replace("host: host1", "host: host2").replace("10.51", "10.52")
    with pytest.raises(ConfigError) as caught:
        compile_cluster(_load(changed), None, _remember(before))
    assert [problem.path for problem in caught.value.problems] == ["containers.ubuntu011", "containers.ubuntu012"]


def test_what_the_file_no_longer_has_is_listed_with_its_host() -> None:
    before = compile_cluster(_load(BASE + ONE + TWO))
    after = compile_cluster(_load(BASE + ONE), None, _remember(before))
    assert [(placed.host, placed.container.hostname) for placed in after.removed] == [("host2", "ubuntu012")]


def test_roles_may_change_where_the_image_stays() -> None:
    before = compile_cluster(_load(BASE + ONE + TWO))
    after = compile_cluster(_load(BASE + ONE.replace(", compute", "") + TWO), None, _remember(before))
    assert "compute" not in _containers(after)["ubuntu011"].roles


def test_a_name_on_two_hosts_is_a_conflict() -> None:
    container = _containers(compile_cluster(_load(BASE + ONE)))["ubuntu011"]
    with pytest.raises(CaasError, match="is on host1 and on host2") as caught:
        Remembered.of({"host1": [container], "host2": [container]})
    assert caught.value.code is Code.CONFLICT


def test_a_port_that_would_be_called_as_a_vlan_is_refused() -> None:
    text = (BASE + ONE).replace("name: demo", "name: eth1").replace("ubuntu011", "100")
    with pytest.raises(ConfigError, match=r"its port would be called eth1.100"):
        compile_cluster(_load(text))


# The document


def test_the_document_of_the_demonstration() -> None:
    document = to_document(compile_cluster(load_file(str(ROOT / "examples/demo.yaml"))))
    assert set(document) == {"cluster", "hosts", "natbox", "warnings"}
    host = document["hosts"]["host1"]
    assert set(host) == {"links", "addresses", "routes", "rules", "containers"}
    assert {(link["kind"], link["name"]) for link in host["links"]} == {("bridge", "lxcbr100"), ("vlan", "eth1.100")}
    (vlan,) = [link for link in host["links"] if link["kind"] == "vlan"]
    assert (vlan["parent"], vlan["vid"], vlan["mtu"]) == ("eth1", 100, 1500)
    (container,) = host["containers"]
    assert set(container) == {"name", "address", "mac", "link", "image", "roles", "clone_of"}
    assert (container["name"], container["address"], container["link"]) == ("ubuntu011", "192.168.10.50/24", "lxcbr100")
    assert document["natbox"] == [
        {"network": "cluster", "vid": 100, "subnet": "192.168.10.0/24", "gateway": "192.168.10.1"}
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_time_grows_as_the_file_does() -> None:
    """Four times as much takes about four times as long (eight are allowed: two cores are shared). How long a
    thousand hosts take is for make bench."""
    import time

    def seconds(hosts: int) -> float:
        lines = ["name: big", "hosts:"]
        lines += [f"  h{n}: {{address: 172.16.{n // 250}.{n % 250 + 1}, trunk: eth1}}" for n in range(hosts)]
        lines += ["networks: {n: {vlan: 5, subnet: 10.0.0.0/8}}", "containers:"]
        lines += [
            f"  c{n}: {{host: h{n // 64}, network: n, roles: [{'compute' if n else 'controller'}]}}"
            for n in range(hosts * 64)
        ]
        began = time.process_time()
        file = load_bytes("\n".join(lines).encode(), file="big")
        compiled = compile_cluster(file)
        assert sum(len(host.state.containers) for host in compiled.hosts.values()) == hosts * 64
        again = compile_cluster(file, None, _remember(compiled))
        assert again.hosts == compiled.hosts
        return time.process_time() - began

    quarter, whole = seconds(50), seconds(200)
    assert whole < 8 * quarter, (quarter, whole)


def test_generations_are_the_caller_s() -> None:
    compiled = compile_cluster(_load(BASE + ONE), generation=9)
    assert {host.generation for host in compiled.hosts.values()} == {9}
    assert (
        dataclasses.replace(compiled.hosts["host1"], generation=1) == compile_cluster(_load(BASE + ONE)).hosts["host1"]
    )


def test_the_address_of_what_is_being_removed_is_the_last_to_be_given_again() -> None:
    def text(*names: str) -> str:
        base = BASE.replace("192.168.10.0/24, gateway: 192.168.10.1", "192.168.10.0/29")
        roles = {name: "compute" if name != "a" else "controller" for name in names}
        return base + "".join(
            f"  {name}: {{host: host1, network: cluster, roles: [{roles[name]}]}}\n" for name in names
        )

    before = compile_cluster(_load(text("b", "a", "c")))
    after = compile_cluster(_load(text("a", "d", "e", "f", "g", "h")), None, _remember(before))
    last = [int(one.nic.address.ip) & 7 for one in _containers(after).values()]
    assert last == [2, 4, 5, 6, 1, 3]


def test_a_container_cannot_change_its_network() -> None:
    auto = BASE.replace("networks:\n", "networks:\n  far: {vlan: 101, subnet: 10.0.0.0/24}\n")
    auto += "  m: {host: host1, network: cluster, roles: [controller]}\n"
    before = compile_cluster(_load(auto))
    with pytest.raises(ConfigError) as caught:
        compile_cluster(_load(auto.replace("network: cluster", "network: far")), None, _remember(before))
    assert caught.value.code is Code.REFUSED
    said = " ".join(problem.message for problem in caught.value.problems)
    assert "renumber it from 192.168.10.2 to 10.0.0.1" in said
    assert "move it from bridge lxcbr100 to lxcbr101" in said


def test_natbox_s_trunk_is_named_where_it_is_the_smallest() -> None:
    before = compile_cluster(_load(BASE + ONE), _facts({"host1": 9000, "host2": 9000}, natbox=9000))
    facts = _facts({"host1": 9000, "host2": 9000}, natbox=1500)
    with pytest.raises(ConfigError, match=r"demo.yaml:5: natbox.trunk: eth1 has MTU 1500, but .* run with 9000"):
        compile_cluster(_load(BASE + ONE), facts, _remember(before))


def test_natbox_s_trunk_must_be_there() -> None:
    facts = Facts(hosts={"host1": HostFacts(links={"eth1": 1500})}, natbox=HostFacts(links={}))
    with pytest.raises(ConfigError, match=r"demo.yaml:5: natbox.trunk: there is no link 'eth1'") as caught:
        compile_cluster(_load(BASE + ONE), facts)
    assert caught.value.hint == "it has none"


def test_a_trunk_that_cannot_carry_ipv4() -> None:
    with pytest.raises(ConfigError, match=r"hosts.host1.trunk: eth1 has MTU 68; within 576..65535 is needed"):
        compile_cluster(_load(BASE + ONE), _facts({"host1": 68, "host2": 1500}))


def test_natbox_s_address_tells_the_underlay_too() -> None:
    text = (BASE + ONE).replace("192.168.2.24", "192.168.11.24")
    facts = Facts(hosts={"host1": HostFacts(links={"eth1": 1500}, routes=(IPv4Network("192.168.10.0/23"),))})
    with pytest.raises(ConfigError, match=r"overlaps the underlay: host1 has a route to 192.168.10.0/23"):
        compile_cluster(_load(text), facts)


def test_the_document_of_a_cluster_without_natbox() -> None:
    text = (BASE + ONE).replace(", gateway: 192.168.10.1", "")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("natbox"))
    assert to_document(compile_cluster(_load(text)))["natbox"] == []


def test_the_document_shows_routes_rules_and_addresses() -> None:
    compiled = compile_cluster(_load(BASE + ONE))
    to, by, own = IPv4Network("10.2.0.0/16"), IPv4Address("10.9.0.2"), IPv4Address("10.1.0.1")
    state = HostState(
        addresses=(Address(link="lxcbr0", address=IPv4Interface("10.1.0.1/16")),),
        routes=(Route(dst=to, dev="t0", via=by, src=own), Route(dst=to, dev="t1", table=7)),
        rules=(Rule(priority=5, src=to, dst=None, table=7), Rule(priority=6, src=None, dst=to, table=8)),
    )
    host = dataclasses.replace(compiled.hosts["host1"], state=state)
    shown = to_document(dataclasses.replace(compiled, hosts={"host1": host}))["hosts"]["host1"]
    assert shown["addresses"] == [{"link": "lxcbr0", "address": "10.1.0.1/16"}]
    assert shown["routes"] == [
        {"dst": "10.2.0.0/16", "dev": "t0", "via": "10.9.0.2", "src": "10.1.0.1", "table": 254},
        {"dst": "10.2.0.0/16", "dev": "t1", "via": None, "src": None, "table": 7},
    ]
    assert shown["rules"] == [
        {"from": "10.2.0.0/16", "to": None, "table": 7},
        {"from": None, "to": "10.2.0.0/16", "table": 8},
    ]


def test_what_runs_otherwise_than_compile_would_have_it_is_refused_not_changed() -> None:
    """Somebody's hand, or a journal that was lost: containers of one network with two MTUs, or a clone."""
    compiled = compile_cluster(_load(BASE + ONE + TWO))
    one, two = _containers(compiled).values()
    small = dataclasses.replace(two, nic=dataclasses.replace(two.nic, mtu=1400))
    with pytest.raises(ConfigError, match=r"containers.ubuntu012: .* change its MTU from 1400 to 1500"):
        compile_cluster(_load(BASE + ONE + TWO), None, Remembered.of({"host1": [one], "host2": [small]}))
    clone = dataclasses.replace(two, clone_of="ubuntu011")
    with pytest.raises(ConfigError, match=r"make it again from nova-compute instead of ubuntu011"):
        compile_cluster(_load(BASE + ONE + TWO), None, Remembered.of({"host1": [one], "host2": [clone]}))


@pytest.mark.parametrize(
    ("density", "merged"), [("", []), ("density: normal\n", []), ("density: high\n", ["ubuntu012"])]
)
def test_high_density_is_for_containers_that_are_nothing_but_computes(density: str, merged: list[str]) -> None:
    compiled = compile_cluster(_load(density + BASE + ONE + TWO))
    assert [name for name, container in _containers(compiled).items() if container.merge] == merged
    shown = [one for host in to_document(compiled)["hosts"].values() for one in host["containers"]]
    assert [one["name"] for one in shown if one.get("density") == "high"] == merged
