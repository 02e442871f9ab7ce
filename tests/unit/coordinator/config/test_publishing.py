"""`publish`, `external` and `limits`: read, and what they come to at NATBox. Mistakes are golden cases."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from coordinator.compiling import Facts, HostFacts, compile_cluster
from coordinator.config import ClusterFile, ConfigError, PublishedApi, PublishedPort, load_bytes, load_file
from coordinator.config.cluster import VlanNetwork
from coordinator.nova.urls import PORTS, PUBLIC_APIS
from proto.model import Limits, OwnAddress, Publication

HEAD = """\
name: demo
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}
containers:
  control: {host: host1, network: cluster, address: 192.168.10.50, roles: [controller, compute]}
"""
EXTERNAL = HEAD.replace("10.1}", "10.1, external: 203.0.113.7}")
UPLINK = IPv4Address("203.0.113.1")
SEEN = Facts(
    hosts={"host1": HostFacts(links={"eth1": 1500})},
    natbox=HostFacts(links={"eth1": 1500}, uplink=(UPLINK, IPv4Address("203.0.113.7"))),
)


def _read(text: str) -> ClusterFile:
    return load_bytes(text.encode(), file="demo.yaml")


@pytest.mark.parametrize(
    ("text", "ports", "api"),
    [
        ("", (), None),
        ("publish: api", (), PublishedApi()),
        ("publish: [api]", (), PublishedApi()),
        ("publish: {api: 18000}", (), PublishedApi(base_port=18000)),
        (
            "publish: {port: 80, to: control:8080}",
            (PublishedPort(port=80, container="control", to_port=8080),),
            None,
        ),
        (
            "publish:\n- {port: 53, to: control:53, protocol: udp}\n- {port: 53, to: 'control:53'}\n- {api: 65531}",
            (
                PublishedPort(port=53, container="control", to_port=53, protocol="udp"),
                PublishedPort(port=53, container="control", to_port=53),
            ),
            PublishedApi(base_port=65531),
        ),
    ],
)
def test_what_is_published(text: str, ports: tuple[PublishedPort, ...], api: PublishedApi | None) -> None:
    file = _read(HEAD + text)
    assert (file.ports, file.api) == (ports, api)


def test_a_file_in_json_says_the_same() -> None:
    item = '{"port": 80, "to": "control:80"}'
    text = (
        '{"name": "demo", "hosts": {"h": {"address": "10.9.0.1", "trunk": "t"}},'
        ' "natbox": {"address": "10.9.0.2", "trunk": "t", "uplink": "u"},'
        ' "networks": {"n": {"vlan": 5, "subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}},'
        f' "containers": {{"control": {{"host": "h", "network": "n", "roles": ["controller"]}}}}, "publish": [{item}]}}'
    )
    assert load_bytes(text.encode(), file="demo.json").ports == (
        PublishedPort(port=80, container="control", to_port=80),
    )


def test_mistakes_beside_a_colon_in_braces_are_told_once() -> None:
    text = HEAD.replace("vlan: 100", "vlan: 5000, vlan: 7") + "publish: {port: 80, to: control:80}\n"
    with pytest.raises(ConfigError) as caught:
        _read(text)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (6, "networks.cluster.vlan"),
        (6, "networks.cluster"),
    ]


def test_what_is_no_yaml_beside_a_colon_in_braces_is_told() -> None:
    with pytest.raises(ConfigError, match=r"demo\.yaml:10: not YAML"):
        _read(HEAD + "publish: {port: 80, to: control:80}\n]\n")


def test_the_api_is_five_publications_at_its_usual_ports_or_from_the_first_on() -> None:
    usual = _read(HEAD + "publish: api").publications
    assert [(one.port, one.to_port) for one in usual] == [(PORTS[name], PORTS[name]) for name in PUBLIC_APIS]
    chosen = _read(HEAD + "publish: {api: 18000}").publications
    assert [(one.port, one.to_port) for one in chosen] == [
        (18000 + index, PORTS[name]) for index, name in enumerate(PUBLIC_APIS)
    ]
    assert PUBLIC_APIS == ("keystone", "glance", "placement", "nova-api", "neutron"), "docs/cluster-file.md says so"


def test_the_example_is_right() -> None:
    file = load_file(str(Path(__file__).parents[4] / "examples/published.yaml"))
    table = compile_cluster(file).natbox
    assert table is not None
    assert len(table.gateways[0].publications) == len(PUBLIC_APIS) + 1
    assert len(table.gateways[0].own_addresses) == 1


def test_networks_limits() -> None:
    network = _read(HEAD.replace("10.1}", "10.1, limits: {connections: 9}}")).networks["cluster"]
    assert isinstance(network, VlanNetwork)
    assert network.limits == Limits(connections=9)


def test_the_table_has_it_in_one_order_whatever_the_files() -> None:
    one, two = "{port: 90, to: control:90}", "{port: 80, to: control:22, protocol: udp}"
    tables = [
        compile_cluster(_read(f"{EXTERNAL}publish: [{pair}]\n")).natbox for pair in (f"{one}, {two}", f"{two}, {one}")
    ]
    assert tables[0] == tables[1]
    assert tables[0] is not None
    (gateway,) = tables[0].gateways
    inside = IPv4Address("192.168.10.50")
    assert gateway.publications == (
        Publication(protocol="tcp", port=90, to=inside, to_port=90),
        Publication(protocol="udp", port=80, to=inside, to_port=22),
    )
    assert gateway.external == IPv4Address("203.0.113.7")


def test_a_containers_own_address() -> None:
    compiled = compile_cluster(_read(HEAD.replace("compute]}", "compute], external: 203.0.113.9}")))
    assert compiled.natbox is not None
    (own,) = compiled.natbox.gateways[0].own_addresses
    assert own == OwnAddress(external=IPv4Address("203.0.113.9"), address=IPv4Address("192.168.10.50"))


def test_where_the_api_is_seen() -> None:
    assert compile_cluster(_read(HEAD), SEEN).publics == {}
    assert compile_cluster(_read(HEAD + "publish: api")).publics == {}, "nobody was asked for the uplink's address"
    found = compile_cluster(_read(HEAD + "publish: {api: 18000}"), SEEN).publics
    assert (found["keystone"], found["nova-api"]) == ("203.0.113.1:18000", "203.0.113.1:18003")
    for facts in (None, Facts(hosts=SEEN.hosts, natbox=HostFacts(links={"eth1": 1500}, uplink=(UPLINK,)))):
        found = compile_cluster(_read(EXTERNAL + "publish: api"), facts).publics
        assert (found["keystone"], found["neutron"]) == ("203.0.113.7:5000", "203.0.113.7:9696")


def test_what_the_uplink_has_is_nobodys_own() -> None:
    text = HEAD.replace("compute]}", "compute], external: 203.0.113.1}")
    with pytest.raises(ConfigError, match=r"demo\.yaml:8: containers\.control\.external: 203\.0\.113\.1 is NATBox's"):
        compile_cluster(_read(text), SEEN)
    assert compile_cluster(_read(text)).natbox, "nobody was asked"
    with pytest.raises(ConfigError, match=r"networks\.cluster\.external: 203\.0\.113\.7 is NATBox's own") as caught:
        compile_cluster(_read(EXTERNAL), SEEN)
    assert caught.value.hint == "an address of the uplink's side that nobody else has"
