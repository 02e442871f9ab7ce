"""stack.sh's steps: who has which, in what order, and with what."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

from coordinator.config import ClusterFile, Surroundings, load_bytes
from coordinator.devstack import make_devstack_steps
from coordinator.devstack.steps import StackStep, StartStep
from coordinator.steps import Step
from tests.support.fake_nova import FakeCluster, FakeContainer

REPO = "file:///srv/devstack"


def _servers(*hosts: str) -> dict[str, Any]:
    return {"type": "ExistingServers", "credentials": [{"host": host} for host in hosts]}


def _engine(**keys: Any) -> dict[str, Any]:
    return {"type": "DevstackEngine", "devstack_repo": REPO, **keys}


def _computes(per_host: int, conf: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "LxcEngine",
        "distribution": "debian",
        "container_name": "n",
        "containers_per_host": per_host,
        "provider": _servers("10.2.0.9"),
        "engine": {"name": "DevstackEngine", "devstack_repo": REPO, "devstack_branch": "b", "local_conf": conf},
    }


def _load(document: dict[str, Any]) -> ClusterFile:
    surroundings = Surroundings(distributions={"ubuntu": "debian:bookworm"})
    return load_bytes(json.dumps(document).encode(), file="x.json", surroundings=surroundings)


def _addresses(file: ClusterFile) -> dict[str, IPv4Address]:
    return {name: IPv4Address(f"10.0.3.{number}") for number, name in enumerate(file.containers, start=2)}


def _steps(document: dict[str, Any]) -> tuple[tuple[Step, ...], FakeCluster]:
    cluster, file = FakeCluster(), _load(document)
    shells = {name: FakeContainer(cluster, name) for name in file.containers}
    return make_devstack_steps(file, shells, _addresses(file), {"10.2.0.8": ["10.9.9.9"]}), cluster


MULTIHOST = {
    "type": "MultihostEngine",
    "controller": _engine(provider=_servers("10.2.0.8")),
    "nodes": [_computes(3, {"MYSQL_HOST": "{controller_ip}", "VIRT_DRIVER": "fake"})],
}


def test_clones_run_no_stack_and_nodes_wait_for_the_controller() -> None:
    steps, _ = _steps(MULTIHOST)
    assert {step.id: sorted(step.needs) for step in steps} == {
        "devstack/stack:devstack-10-2-0-8": [],
        "devstack/stack:n-10-0-4-0-000": ["devstack/stack:devstack-10-2-0-8"],
        "devstack/start:n-10-0-4-0-000": ["devstack/stack:n-10-0-4-0-000"],
        "devstack/start:n-10-0-4-0-001": ["devstack/stack:n-10-0-4-0-000"],
        "devstack/start:n-10-0-4-0-002": ["devstack/stack:n-10-0-4-0-000"],
    }


def test_local_conf_has_the_controllers_address() -> None:
    steps, _ = _steps(MULTIHOST)
    (node,) = (step for step in steps if isinstance(step, StackStep) and step.id.endswith(":n-10-0-4-0-000"))
    assert node.branch == "b"
    assert node.local_conf.splitlines()[0] == "[[local|localrc]]"
    assert node.local_conf.endswith("MYSQL_HOST=10.0.3.2\nVIRT_DRIVER=fake\n")


def test_each_container_of_a_provider_gets_a_devstack_of_its_own() -> None:
    provider = {"type": "LxcProvider", "container_name_prefix": "p", "containers_per_host": 2}
    steps, _ = _steps(_engine(provider={**provider, "host_provider": _servers("10.2.0.8")}))
    assert [step.id for step in steps] == ["devstack/stack:p-000-0", "devstack/stack:p-001-0"]


async def test_stack_runs_once_for_the_same_and_again_for_another_local_conf() -> None:
    document = _engine(provider=_servers("10.2.0.8"))
    (step,), cluster = _steps(document)
    assert not await step.done()
    await step.run()
    assert await step.done()
    (job,) = [call.argument for call in cluster.programs("devstack") if call.argument["do"] == "stack"]
    assert (job["repo"], job["branch"]) == (REPO, "master")
    assert job["nameservers"] == ["10.9.9.9"]
    assert job["local_conf"].startswith("[[local|localrc]]\nDATABASE_PASSWORD=rally\n")
    for change in ({"local_conf": {"A": "B"}}, {"devstack_branch": "other"}, {"devstack_repo": REPO + "2"}):
        (other,), _ = _steps({**document, **change})
        assert isinstance(step, StackStep)
        assert isinstance(other, StackStep)
        assert other.digest != step.digest


async def test_a_clone_is_done_where_nova_has_its_address_and_runs_or_is_not_there() -> None:
    steps, _ = _steps(MULTIHOST)
    step = next(step for step in steps if step.id == "devstack/start:n-10-0-4-0-001")
    assert isinstance(step, StartStep)
    assert isinstance(step.shell, FakeContainer)
    assert await step.done(), "stack.sh left no nova.conf"
    step.shell.devstack.update(my_ip="10.0.3.3", services={"nova-compute": True})
    assert not await step.done()
    await step.run()
    assert await step.done()
    step.shell.devstack["services"] = {"nova-compute": False}
    assert not await step.done()
