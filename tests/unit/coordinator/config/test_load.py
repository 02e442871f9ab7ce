"""What a good file is read into."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from coordinator.config import ConfigError, ContainerSpec, Host, NatBox, NovaOptions, VlanNetwork, load_bytes, load_file
from coordinator.config.cluster import API_WORKERS_MAX, VIRT_DRIVERS
from coordinator.nova import roles
from proto.errors import CaasError, Code

ROOT = Path(__file__).parents[4]
ALL = (
    "database",
    "messaging",
    "keystone",
    "glance",
    "placement",
    "nova-api",
    "nova-conductor",
    "nova-scheduler",
    "compute",
)


def test_the_demonstration_file() -> None:
    file = load_file(str(ROOT / "examples/demo.yaml"))
    assert file.name == "demo"
    assert dict(file.hosts) == {
        "host1": Host(name="host1", address=IPv4Address("192.168.2.25"), trunk="eth1"),
        "host2": Host(name="host2", address=IPv4Address("192.168.2.26"), trunk="eth1"),
    }
    assert file.natbox == NatBox(address=IPv4Address("192.168.2.24"), trunk="eth1", uplink="eth2")
    assert dict(file.networks) == {
        "cluster": VlanNetwork(
            name="cluster",
            vid=100,
            subnet=IPv4Network("192.168.10.0/24"),
            gateway=IPv4Address("192.168.10.1"),
        )
    }
    assert dict(file.containers) == {
        "ubuntu011": ContainerSpec(
            name="ubuntu011", host="host1", network="cluster", address=IPv4Address("192.168.10.50"), roles=ALL
        )
    }
    assert file.nova == NovaOptions(virt_driver="fake")


def test_the_second_file_adds_one_compute_and_changes_nothing_else() -> None:
    one, two = (load_file(str(ROOT / f"examples/{name}.yaml")) for name in ("demo", "demo-two-computes"))
    assert set(two.containers) - set(one.containers) == {"ubuntu012"}
    assert two.containers["ubuntu011"] == one.containers["ubuntu011"]
    assert two.containers["ubuntu012"].roles == ("compute",)
    assert (one.name, one.hosts, one.natbox, one.networks, one.nova) == (
        two.name,
        two.hosts,
        two.natbox,
        two.networks,
        two.nova,
    )


MINIMAL = """\
hosts: {h: {address: 10.9.0.1, trunk: eth0}}
networks: {n: {vlan: 1, subnet: 10.0.0.0/30}}
containers: {c: {host: h, network: n, roles: controller}}
"""


def test_defaults_and_the_name_from_the_file_s_stem() -> None:
    file = load_bytes(MINIMAL.encode(), file="/some/where/tiny.yaml")
    assert file.name == "tiny"
    assert file.natbox is None
    assert file.containers["c"].address is None
    assert file.vlans["n"].gateway is None
    assert file.nova == NovaOptions(virt_driver="fake", region="RegionOne", api_workers=1)
    assert load_bytes(MINIMAL.encode(), file="-", name="given").name == "given"


def test_names_that_yaml_takes_for_something_else_stay_names() -> None:
    text = "hosts: {no: {address: 10.9.0.1, trunk: on}}\nnetworks: {010: {vlan: 1, subnet: 10.0.0.0/24}}\n"
    text += "containers: {1e3: {host: no, network: 010, roles: [controller]}}\nname: 2024-01-01\n"
    file = load_bytes(text.encode(), file="f")
    assert (file.name, [*file.hosts], [*file.networks], [*file.containers]) == ("2024-01-01", ["no"], ["010"], ["1e3"])
    assert file.hosts["no"].trunk == "on"


def test_anchors_and_merge_keys() -> None:
    text = """\
name: a
hosts: {h: &h {address: 10.9.0.1, trunk: eth0}, i: {<<: *h, address: 10.9.0.2}}
networks: {n: {vlan: 1, subnet: 10.0.0.0/24}}
containers:
  c: {host: h, network: n, roles: [controller]}
  d: &d {host: i, network: n, roles: &r [compute]}
  e: {host: h, network: n, roles: *r}
  f: {<<: [*d], host: h}
"""
    file = load_bytes(text.encode(), file="f")
    assert file.hosts["i"] == Host(name="i", address=IPv4Address("10.9.0.2"), trunk="eth0")
    assert file.containers["f"] == ContainerSpec(name="f", host="h", network="n", roles=("compute",))


def test_json_is_yaml_and_a_byte_order_mark_is_no_harm() -> None:
    text = '{"name": "j", "hosts": {"h": {"address": "10.9.0.1", "trunk": "eth0"}}, "networks": {"n": '
    text += '{"vlan": 1, "subnet": "10.0.0.0/24"}}, "containers": {"c": '
    text += '{"host": "h", "network": "n", "roles": ["controller"]}}}'
    assert load_bytes(b"\xef\xbb\xbf" + text.encode(), file="f").name == "j"


def test_places_lead_to_lines_and_do_not_make_files_differ() -> None:
    one = load_bytes(MINIMAL.encode(), file="f")
    two = load_bytes(b"\n\n" + MINIMAL.encode(), file="f")
    assert one == two
    assert (one.place("containers", "c", "host").line, two.place("containers", "c", "host").line) == (3, 5)
    assert one.place("containers", "c", "address") == one.place("containers", "c")


@pytest.mark.parametrize("text", [MINIMAL + "nova: {}\n", MINIMAL.replace("trunk: eth0", "trunk: 'eth0'")])
def test_what_is_odd_but_right(text: str) -> None:
    assert load_bytes(text.encode(), file="f").hosts["h"].trunk == "eth0"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(33 << 20)
    for path, why, hint in (
        (tmp_path / "none.yaml", "No such file", "see examples/demo.yaml"),
        (tmp_path, "Is a directory", ""),
        (huge, "huge: a cluster file has at most", ""),
    ):
        with pytest.raises(CaasError, match=why) as caught:
            load_file(str(path))
        assert (caught.value.code, caught.value.hint) == (Code.INVALID, hint)


def test_nova_knows_every_role_and_driver_that_a_file_may_say() -> None:
    from coordinator.nova import site

    assert set(roles.ROLES) == {str(role) for role in roles.Role}
    assert set(roles.CONTROLLER_ROLES) == {str(role) for role in site.CONTROLLER_ROLES}

    assert set(VIRT_DRIVERS) == set(site.VIRT_DRIVERS)
    assert site.MAX_API_WORKERS == API_WORKERS_MAX


def test_roles_expand_in_one_order() -> None:
    assert roles.expand_roles(["compute", "controller", "compute"]) == ALL
    assert roles.expand_roles(["nova-api", "database"]) == ("database", "nova-api")
    assert not roles.holds_controller_role(["compute"])
    with pytest.raises(KeyError):
        roles.expand_roles(["controler"])


@pytest.mark.parametrize("density", ["normal", "high"])
def test_density(density: str) -> None:
    assert load_bytes(f"{MINIMAL}density: {density}\n".encode(), file="m.yaml").density == density
    assert load_bytes(MINIMAL.encode(), file="m.yaml").density == "normal"


def test_a_density_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="density: unknown density 'highest'"):
        load_bytes(f"{MINIMAL}density: highest\n".encode(), file="m.yaml")


@pytest.mark.parametrize(("text", "wanted"), [("true", True), ("True", True), ("false", False)])
def test_ssh_is_said_for_each_container(text: str, wanted: bool) -> None:
    demo = (ROOT / "examples/demo.yaml").read_text()
    (spec,) = load_bytes(demo.replace("roles: [", f"ssh: {text}, roles: [").encode(), file="x").containers.values()
    assert spec.ssh is wanted


@pytest.mark.parametrize("text", ["yes", "'true'", "1", "[]"])
def test_ssh_that_is_neither_true_nor_false_is_refused(text: str) -> None:
    demo = (ROOT / "examples/demo.yaml").read_text()
    with pytest.raises(ConfigError, match=r"containers\.ubuntu011\.ssh") as caught:
        load_bytes(demo.replace("roles: [", f"ssh: {text}, roles: [").encode(), file="x")
    assert "true or false is needed" in caught.value.hint
