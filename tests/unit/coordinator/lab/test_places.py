"""Where labs keep what: the default place for the default lab, and no two labs in one place."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from coordinator.config import Settings, load_settings
from coordinator.lab.daemons import make_services, make_settings, make_uid
from coordinator.lab.places import Places
from coordinator.lab.topology_file import default_topology
from proto.errors import CaasError
from proto.marks import parse_mark


def test_the_lab_called_lab_has_the_default_socket() -> None:
    assert Places("lab").socket == Path("/run/caas/coordinator.sock")
    assert Places("other").socket == Path("/run/caas/other/coordinator.sock")


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "a.lock", "a" * 33, "-a"])
def test_names_that_could_be_another_place_are_refused(name: str) -> None:
    with pytest.raises(CaasError):
        Places(name)


def test_labels_are_not_marks_that_an_agent_takes_for_its_own() -> None:
    assert parse_mark(Places("lab").label("host1")) is None


def test_labs_whose_namespaces_would_have_one_name_have_two_labels() -> None:
    first, second = Places("a"), Places("a-b")
    assert first.namespace("b-c") == second.namespace("c")
    assert first.label("b-c") != second.label("c")


def test_the_processes_of_the_default_lab() -> None:
    services = make_services(default_topology(), Places("x"), uid=61200)
    commands = {one.daemon.name: " ".join(one.daemon.argv[1:]) for one in services}
    state = "/var/lib/caas/labs/x"
    one, two, gateway = (f"{state}/machines/{name}" for name in ("host1", "host2", "natbox"))
    assert commands == {
        "caas-agent.host1": f"-m agent.rpc.main --name host1 --listen 192.168.2.25:7443 --tls {one}/tls "
        f"--state {one}/state --run /run/caas/x/machines/host1 --authorized-keys {one}/authorized_keys",
        "caas-agent.host2": f"-m agent.rpc.main --name host2 --listen 192.168.2.26:7443 --tls {two}/tls "
        f"--state {two}/state --run /run/caas/x/machines/host2 --authorized-keys {two}/authorized_keys",
        "caas-natbox": f"-m natbox.main --listen 192.168.2.24:7444 --tls {gateway}/tls "
        f"--state {gateway}/state --trunk eth1 --uplink eth2",
        "caas-coordinator": "-m coordinator.rpc.main --socket /run/caas/x/coordinator/coordinator.sock "
        f"--tls {state}/coordinator/tls --state {state}/coordinator/state --config {state}/config.yaml",
    }
    assert {one.bearer.uri: one.bearer.uid for one in services} == {
        "caas:agent:host1": 0,
        "caas:agent:host2": 0,
        "caas:natbox": 0,
        "caas:coordinator": 61200,
    }


def test_the_coordinators_uid_depends_on_the_labs_name_only() -> None:
    assert make_uid("lab") == make_uid("lab")
    assert make_uid("lab") != make_uid("other")
    assert all(61184 <= make_uid(f"lab{n}") <= 65519 for n in range(50))


def test_the_labs_coordinator_knows_its_agents_and_which_host_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(make_settings(default_topology()))
    assert load_settings(path) == Settings(
        agents={"host1": IPv4Address("192.168.2.25"), "host2": IPv4Address("192.168.2.26")}, localhost="host1"
    )
