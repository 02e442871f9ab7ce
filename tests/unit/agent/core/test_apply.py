"""Apply: every single failure is reached, leaves the host as it was, and a retry converges."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from agent.core.apply import apply
from proto.errors import CaasError, Code
from proto.model import Container, HostState, Plan
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.things import TRUNK, make_bridge, make_container, make_state

WANTED = make_state(make_container(), make_container("ubuntu012", number=51))
STEPS = [
    ("kernel", "create", "lxcbr100"),
    ("kernel", "create", "eth1.100"),
    ("containers", "create", "demo.ubuntu011"),
    ("containers", "create", "demo.ubuntu012"),
    ("containers", "start", "demo.ubuntu011"),
    ("containers", "start", "demo.ubuntu012"),
    ("kernel", "mark", "demo.ubuntu012"),
]


def run(kernel: FakeKernel, containers: FakeContainers, desired: HostState = WANTED) -> Plan:
    return apply(
        kernel, containers, "demo", desired, others=HostState(), on_plan=lambda plan: None, on_done=lambda action: None
    )


def shape(kernel: FakeKernel, containers: FakeContainers) -> object:
    return (dict(kernel.things), dict(containers.containers))


def test_an_empty_host_becomes_as_desired_and_a_second_apply_writes_nothing() -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    assert len(run(kernel, containers)) == 6
    writes = kernel.writes, containers.writes
    assert run(kernel, containers) == ()
    assert (kernel.writes, containers.writes) == writes
    assert {container.name for container in containers.containers.values() if container.running} == {
        "demo.ubuntu011",
        "demo.ubuntu012",
    }


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_every_single_failure_leaves_the_host_as_found(step: tuple[str, str, str]) -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    before = shape(kernel, containers)
    door, verb, name = step
    {"kernel": kernel, "containers": containers}[door].fail(verb, name)
    with pytest.raises(CaasError, match="simulated"):
        run(kernel, containers)
    assert not kernel.armed | containers.armed, "the failure was never reached"
    assert shape(kernel, containers) == before
    run(kernel, containers)
    assert set(containers.containers) == {"demo.ubuntu011", "demo.ubuntu012"}


def test_the_steps_above_are_all_there_are() -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    run(kernel, containers)
    reached = {("kernel", *call) for call in kernel.calls} | {("containers", *call) for call in containers.calls}
    assert reached - set(STEPS) == {("kernel", "mark", "demo.ubuntu011")}


def test_undo_that_fails_does_not_hide_the_first_error() -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    containers.fail("start", "demo.ubuntu011")
    kernel.fail("delete", "lxcbr100")
    with pytest.raises(CaasError, match=r"start demo\.ubuntu011"):
        run(kernel, containers)
    assert set(kernel.things) == {("bridge", "lxcbr100")}


def test_what_had_the_name_before_stays_after_a_conflict() -> None:
    """A bridge of a cluster that nobody has saved: it is not looked at, and a failed creation does not remove it."""
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    theirs = make_bridge(cluster="forgotten")
    kernel.create(theirs)
    with pytest.raises(CaasError, match="the name is taken") as caught:
        run(kernel, containers)
    assert caught.value.code is Code.CONFLICT
    assert set(kernel.things.values()) == {theirs}


def test_a_host_that_does_not_show_it_is_unverified() -> None:
    class Forgetful(FakeContainers):
        def start(self, container: object) -> None:
            self.writes += 1

    kernel, containers = FakeKernel(foreign=[TRUNK]), Forgetful()
    with pytest.raises(CaasError, match=r"start container demo\.ubuntu011") as caught:
        run(kernel, containers)
    assert caught.value.code is Code.UNVERIFIED
    assert not kernel.things


def test_another_clusters_objects_are_not_touched() -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    other = make_container("other", number=60, cluster="blue", vid=200)
    blue = make_state(other, vid=200, cluster="blue")
    apply(kernel, containers, "blue", blue, others=HostState(), on_plan=lambda plan: None, on_done=lambda action: None)
    run(kernel, containers)
    run(kernel, containers, HostState())
    assert set(containers.containers) == {"blue.other"}
    assert set(kernel.things) == {("bridge", "lxcbr200"), ("vlan", "eth1.200")}


def test_a_clone_is_made_when_its_source_is_and_not_before() -> None:
    made: list[str] = []

    class Slow(FakeContainers):
        def create(self, container: Container) -> None:
            assert not container.clone_of or f"demo.{container.clone_of}" in self.containers, "before its source"
            time.sleep(0 if container.clone_of else 0.05)
            super().create(container)
            made.append(container.hostname)

    source = make_container("c1", number=1)
    clones = [replace(make_container(f"c{number}", number=number), clone_of="c1") for number in range(2, 12)]
    run(FakeKernel(foreign=[TRUNK]), Slow(), make_state(*clones, source))
    assert made[0] == "c1"
    assert len(made) == 11
