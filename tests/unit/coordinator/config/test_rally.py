"""Rally's files, key by key: what each comes to, alone."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from coordinator.config import ClusterFile, ConfigError, Host, Surroundings, load_bytes, parse_distributions
from coordinator.config.rally import make_cluster_name
from coordinator.config.rally.services import SERVICE_ROLES
from coordinator.nova.roles import CONTROLLER_ROLES, ROLES
from proto.errors import CaasError, Code
from proto.names import check_cluster_name

UBUNTU = Surroundings(distributions={"ubuntu": "debian:bookworm"})
SERVERS = {"type": "ExistingServers", "credentials": [{"host": "10.2.0.8"}]}


def _devstack(conf: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    return {
        "type": "DevstackEngine",
        "local_conf": {"VIRT_DRIVER": "fake", **(conf or {})},
        "provider": SERVERS,
        **keys,
    }


def _lxc(**keys: Any) -> dict[str, Any]:
    provider = {"type": "LxcProvider", "container_name_prefix": "x", "containers_per_host": 1, "host_provider": SERVERS}
    return _devstack(provider={**provider, **keys})


def _load(document: dict[str, Any], surroundings: Surroundings = UBUNTU, file: str = "x.json") -> ClusterFile:
    return load_bytes(json.dumps(document).encode(), file=file, surroundings=surroundings)


def _refused(document: dict[str, Any], surroundings: Surroundings = UBUNTU) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(document, surroundings)
    assert caught.value.code is Code.INVALID
    return caught.value.message


def _multihost(node: dict[str, Any]) -> dict[str, Any]:
    controller = _devstack({"ENABLED_SERVICES+": ",-n-cpu"})
    return {"type": "MultihostEngine", "controller": controller, "nodes": [node]}


def _node(conf: dict[str, Any], host: str = "10.2.0.9") -> dict[str, Any]:
    servers = {"type": "ExistingServers", "credentials": [{"host": host}]}
    return _devstack({"ENABLED_SERVICES": "n-cpu", **conf}, provider=servers)


def test_every_role_has_a_service_of_devstack() -> None:
    assert set(SERVICE_ROLES.values()) == set(ROLES)


@pytest.mark.parametrize(
    ("conf", "roles"),
    [
        ({}, ROLES),
        ({"ENABLED_SERVICES+": ",-n-cpu"}, CONTROLLER_ROLES),
        ({"ENABLED_SERVICES+": "-n-cpu , horizon"}, CONTROLLER_ROLES),
        ({"ENABLED_SERVICES": "key,mysql,rabbit,n-api,n-cpu"}, ROLES),
        (
            {"ENABLED_SERVICES": "nova,key,glance,mysql,rabbit,placement", "ENABLED_SERVICES+": ",-n-cpu"},
            CONTROLLER_ROLES,
        ),
        ({"ENABLED_SERVICES+": ",-n-cpu", "ENABLED_SERVICES": "n-api,n-cpu"}, ROLES),
    ],
)
def test_enabled_services_are_roles(conf: dict[str, str], roles: tuple[str, ...]) -> None:
    (spec,) = _load(_devstack(conf)).containers.values()
    assert spec.roles == roles


def test_nothing_enabled_is_a_mistake() -> None:
    assert "devstack-10-2-0-8 has no service that is deployed" in _refused(_devstack({"ENABLED_SERVICES": "horizon"}))


@pytest.mark.parametrize("pointer", ["{controller_ip}", "10.2.0.8", "10.0.3.2", "devstack-10-2-0-8"])
def test_what_leads_to_the_controller_needs_no_word(pointer: str) -> None:
    conf = {
        "MYSQL_HOST": pointer,
        "RABBIT_HOST": pointer,
        "GLANCE_HOSTPORT": f"{pointer}:9292",
        "SERVICE_HOST": pointer,
    }
    file = _load(_multihost(_node(conf)))
    file.check_deployable()
    assert [problem.path for problem in file.warnings if "local_conf" in problem.path] == []


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"MYSQL_HOST": "10.9.9.9"}, "10.9.9.9 is not this cluster's controller"),
        ({"RABBIT_HOST": "${SERVICE_HOST}"}, "is not this cluster's controller"),
        ({"RABBIT_HOST": "localhost"}, "localhost is not this cluster's controller"),
        ({"GLANCE_HOSTPORT": "{controller_ip}:80"}, "port 80: the service listens on 9292"),
        ({"DATABASE_TYPE": "postgresql"}, "the database is MariaDB"),
        ({"VIRT_DRIVER": "libvirt"}, "the only compute driver is the fake one"),
        ({"enable_plugin": "x"}, "packages have no DevStack plugins"),
        ({"ENABLED_SERVICES": "n-cpu,zeromq"}, "messages go by RabbitMQ"),
    ],
)
def test_what_cannot_be_deployed_compiles_and_is_refused_before_anything(conf: dict[str, str], said: str) -> None:
    file = _load(_multihost(_node(conf)))
    with pytest.raises(ConfigError, match=r"x\.json:1: nodes\[0\]\.local_conf") as caught:
        file.check_deployable()
    assert caught.value.code is Code.UNSUPPORTED
    assert said in caught.value.message


def test_the_token_means_nothing_to_the_controller_itself() -> None:
    assert "in nodes only" in _refused(_devstack({"MYSQL_HOST": "{controller_ip}"}))


def test_options_of_nova() -> None:
    nova = _load(_devstack({"REGION_NAME": "Here", "API_WORKERS": "3"})).nova
    assert (nova.region, nova.api_workers, nova.virt_driver) == ("Here", 3, "fake")


@pytest.mark.parametrize("key", ["ADMIN_PASSWORD", "NOVA_BRANCH", "MULTI_HOST", "NUMBER_FAKE_NOVA_COMPUTE", "NO_SUCH+"])
def test_what_has_no_effect_is_named_once_with_the_reason(key: str) -> None:
    (found,) = (problem for problem in _load(_devstack({key: "1"})).warnings if "local_conf" in problem.path)
    assert found.path == f"local_conf.{key}"
    assert found.message.startswith("it has no effect: ")


def test_local_conf_as_rally_wrote_it() -> None:
    conf = {
        "ADMIN_PASSWORD": "secret",
        "ENABLED_SERVICES+": ",-n-cpu",
        "Enable_Plugin": ["a", "b"],
        "LIST": ["host-1.net", 1, True, None],
        "N": 5,
        "LOGDIR": "$DEST/{x}",
    }
    (spec,) = _load(_devstack(conf, devstack_repo="https://example.net/devstack")).containers.values()
    assert spec.devstack is not None
    assert (spec.devstack.repo, spec.devstack.branch) == ("https://example.net/devstack", "master")
    assert spec.devstack.render(IPv4Address("10.0.0.1")) == (
        "[[local|localrc]]\nDATABASE_PASSWORD=rally\nRABBIT_PASSWORD=rally\nSERVICE_TOKEN=rally\n"
        "SERVICE_PASSWORD=rally\nADMIN_PASSWORD=secret\nRECLONE=yes\nSYSLOG=yes\nVIRT_DRIVER=fake\n"
        "ENABLED_SERVICES+=,-n-cpu\nenable_plugin a\nenable_plugin b\n"
        "LIST=['host-1.net', 1, True, None]\nN=5\nLOGDIR=$DEST/{x}\n"
    )


def test_localrc_counts_only_without_local_conf() -> None:
    document = _devstack({"REGION_NAME": "New"}, localrc={"REGION_NAME": "Old"})
    file = _load(document)
    assert file.nova.region == "New"
    assert any(problem.path == "localrc" for problem in file.warnings)
    document["localrc"] = document.pop("local_conf") | {"REGION_NAME": "Old"}
    assert _load(document).nova.region == "Old"


@pytest.mark.parametrize(
    ("given", "asked", "good"),
    [
        ({}, {}, False),
        ({"ubuntu": "debian:bookworm"}, {}, True),
        ({"ubuntu": "debian:bookworm"}, {"release": "raring"}, True),
        ({"ubuntu:raring": "debian:bookworm"}, {"release": "raring"}, True),
        ({"ubuntu:raring": "debian:bookworm"}, {}, False),
        ({}, {"distribution": "debian"}, True),
        ({}, {"distribution": "debian", "release": "bookworm"}, True),
        ({}, {"distribution": "debian", "release": "wheezy"}, False),
        ({"fedora": "debian:bookworm"}, {"distribution": "Fedora"}, True),
    ],
)
def test_images_for_distributions(given: dict[str, str], asked: dict[str, str], good: bool) -> None:
    surroundings = Surroundings(distributions=given)
    if good:
        _load(_lxc(**asked), surroundings)
    else:
        assert "--distribution" in str(_hints(_lxc(**asked), surroundings))


def _hints(document: dict[str, Any], surroundings: Surroundings) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(document, surroundings)
    return [problem.hint for problem in caught.value.problems]


@pytest.mark.parametrize("word", ["ubuntu", "=debian:bookworm", "ubuntu=debian:sid"])
def test_words_that_map_no_distribution(word: str) -> None:
    with pytest.raises(CaasError) as caught:
        parse_distributions([word])
    assert caught.value.code is Code.INVALID
    assert caught.value.hint


def test_localhost_is_the_coordinators_own_host_under_every_name() -> None:
    own = Host(name="host1", address=IPv4Address("192.168.2.25"))
    surroundings = Surroundings(localhost=own)
    for name in ("localhost", "127.0.0.1", "192.168.2.25", "host1"):
        file = _load(_multihost(_node({}, host=name)), surroundings)
        assert list(file.hosts) == ["10.2.0.8", "host1"]
        assert file.hosts["host1"] == own
    twice = {"type": "ExistingServers", "credentials": [{"host": "localhost"}, {"host": "host1"}]}
    assert "host1 is there already" in _refused(_lxc(host_provider=twice), dataclass_with(surroundings))


def dataclass_with(surroundings: Surroundings) -> Surroundings:
    return Surroundings(distributions=UBUNTU.distributions, localhost=surroundings.localhost)


def test_a_host_nobody_looked_up_compiles_and_cannot_be_brought_up() -> None:
    file = _load(_multihost(_node({}, host="node.example.net")))
    assert file.hosts["node.example.net"].address is None
    with pytest.raises(ConfigError, match=r"the address of host node\.example\.net is not known"):
        file.check_deployable()
    known = Surroundings(addresses={"node.example.net": IPv4Address("10.2.0.9")})
    _load(_multihost(_node({}, host="node.example.net")), known).check_deployable()


@pytest.mark.parametrize(
    ("size", "count", "good"), [(29, 5, True), (29, 6, False), (30, 1, True), (30, 2, False), (24, 253, True)]
)
def test_a_block_has_room_for_all_but_three(size: int, count: int, good: bool) -> None:
    document = _lxc(start_lxc_network=f"10.100.0.0/{size}", containers_per_host=count)
    if good:
        assert len(_load(document).containers) == count
    else:
        assert f"has room for {2 ** (32 - size) - 3} containers, and {count} are wanted" in _refused(document)
        (hint,) = _hints(document, UBUNTU)
        bigger = hint.removeprefix("write ")
        assert len(_load(_lxc(start_lxc_network=bigger, containers_per_host=count)).containers) == count


def test_parts_that_share_a_block_share_its_room() -> None:
    node = _lxc(start_lxc_network="10.100.0.0/29", containers_per_host=5, container_name_prefix="n")
    document = _multihost(node)
    document["controller"] = _lxc(start_lxc_network="10.100.0.0/29")
    assert "10.100.0.0/29 has room for 5" in _refused(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tunnel_to": ["10.5.0.1"]}, "start_lxc_network is missing"),
        ({"tunnel_to": ["10.5.0.1"], "start_lxc_network": "10.5.0.0/24"}, "overlaps the underlay"),
        ({"start_lxc_network": "10.2.0.0/24"}, "overlaps the underlay"),
        ({"start_lxc_network": "10.100.1.5/24"}, "has host bits set"),
        ({"start_lxc_network": "10.100.1.0"}, "the prefix length is missing"),
        ({"start_lxc_network": "224.0.0.0/24"}, "is multicast"),
        ({"containers_per_host": 0}, "it must be within 1..1023"),
        ({"containers_per_host": True}, "found 'true'"),
        ({"nodes_per_server": 2}, "2, but containers_per_host, which is the same, is 1"),
        ({"container_name_prefix": "x" * 60}, "1 to 63"),
        ({"container_name_prefix": "Web_1"}, "1 to 63"),
        ({"host_provider": {"type": "CobblerProvider"}}, "caas makes no servers"),
    ],
)
def test_mistakes_in_lxc_providers(change: dict[str, Any], said: str) -> None:
    assert said in _refused(_lxc(**change))


def test_a_comment_of_the_users_is_a_warning_and_a_slip_is_a_mistake() -> None:
    assert any("unknown key '//'" in problem.message for problem in _load({**_devstack(), "//": "mine"}).warnings)
    assert "unknown key 'tunel_to'" in _refused(_lxc(tunel_to=[]))


def test_ports_for_ssh_are_told_to_lead_to_no_api() -> None:
    file = _load(_lxc(forward_ssh=True))
    assert file.containers["x-000-0"].forward_ssh
    assert any(problem.path == "provider.forward_ssh" for problem in file.warnings)


@pytest.mark.parametrize(
    ("file", "name"),
    [("dir/My File.v2.json", "my-file-v2"), ("___.json", "cluster"), ("host.json", "cluster-host"), ("a.json", "a")],
)
def test_a_file_is_a_cluster_called_as_its_stem(file: str, name: str) -> None:
    assert make_cluster_name(file) == name == check_cluster_name(name)


def test_long_stems_that_begin_alike_are_different_clusters() -> None:
    names = {make_cluster_name("x" * 40 + end + ".json") for end in "abc"}
    assert len(names) == 3
    assert all(check_cluster_name(name) for name in names)


def test_our_own_format_may_be_json() -> None:
    document = {
        "name": "demo",
        "hosts": {"h": {"address": "10.2.0.8", "trunk": "eth1"}},
        "networks": {"n": {"vlan": 5, "subnet": "10.9.0.0/24"}},
        "containers": {"c": {"host": "h", "network": "n", "roles": ["controller"]}},
    }
    assert _load(document).networks["n"].subnet_on("h").prefixlen == 24


REPO = "https://example.net/devstack"


def _engine(per_host: int, **keys: Any) -> dict[str, Any]:
    engine = {"name": "DevstackEngine", "local_conf": {"ENABLED_SERVICES": "n-cpu,key", "VIRT_DRIVER": "fake"}, **keys}
    servers = {"type": "ExistingServers", "credentials": [{"host": "10.2.0.9"}]}
    return {
        "type": "LxcEngine",
        "distribution": "debian",
        "container_name": "n",
        "containers_per_host": per_host,
        "provider": servers,
        "engine": engine,
    }


def test_root_is_let_in_by_ssh_everywhere() -> None:
    assert all(spec.ssh for spec in _load(_multihost(_node({}))).containers.values())


def test_with_a_repository_each_container_has_a_devstack_of_its_own_and_nothing_is_added() -> None:
    document = _lxc(containers_per_host=2)
    document["devstack_repo"] = REPO
    document["local_conf"]["ENABLED_SERVICES"] = "n-api,n-cpu"
    file = _load(document)
    assert [spec.roles for spec in file.containers.values()] == [("nova-api", "compute")] * 2
    assert not file.has_nova
    assert [problem.path for problem in file.warnings] == ["provider.distribution"]
    file.check_deployable()


def test_what_stack_sh_sets_up_is_cloned_whatever_its_services_are() -> None:
    file = _load({**_multihost(_engine(3, devstack_repo=REPO)), "controller": _devstack(devstack_repo=REPO)})
    first, *computes = file.containers.values()
    assert not first.clone_of
    assert [spec.clone_of for spec in computes] == ["", computes[0].name, computes[0].name]
    file.check_deployable()


def test_packages_cannot_join_a_controller_that_stack_sh_sets_up() -> None:
    file = _load({**_multihost(_node({})), "controller": _devstack(devstack_repo=REPO)})
    with pytest.raises(ConfigError, match="cannot join a controller"):
        file.check_deployable()


def test_a_node_of_stack_sh_beside_a_controller_from_packages_is_told_of() -> None:
    document = _multihost(_engine(2, devstack_repo=REPO))
    file = _load(document)
    file.check_deployable()
    assert file.has_nova
    (found,) = (problem for problem in file.warnings if "passwords" in problem.message)
    assert found.path == "nodes[0]"
