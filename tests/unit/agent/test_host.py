"""The host: what is saved, which generation counts, what happens after a failure and after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.doors import Lack
from agent.host import Host
from agent.saved import SavedStates
from proto.errors import CaasError, Code
from proto.model import ClusterHost, Cost, Plan
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.things import TRUNK, make_container, make_desired, make_tunnelled

ignore: dict[str, Any] = {"on_plan": lambda _: None, "on_done": lambda _: None}


def make_host(folder: Path, kernel: FakeKernel | None = None, containers: FakeContainers | None = None) -> Host:
    kernel = kernel or FakeKernel(foreign=[TRUNK])
    return Host("host1", kernel, containers or FakeContainers(), SavedStates(folder))


def apply(host: Host, desired: ClusterHost) -> Cost:
    return host.apply(desired, on_plan=lambda _: None, on_done=lambda _: None)


def test_what_was_applied_is_saved_and_applied_again_without_a_write(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    desired = make_desired(make_container())
    assert apply(host, desired).kernel_writes == 3
    assert SavedStates(tmp_path).load() == {"demo": desired}
    again = apply(host, desired)
    assert (again.kernel_writes, again.container_writes) == (0, 0)


def test_a_restart_after_power_was_lost_makes_the_host_as_saved(tmp_path: Path) -> None:
    apply(make_host(tmp_path), make_desired(make_container()))
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    make_host(tmp_path, kernel, containers).restore()
    assert set(kernel.things) == {("bridge", "lxcbr100"), ("vlan", "eth1.100")}
    assert containers.containers["demo.ubuntu011"].running
    assert kernel.adopted == {"demo.ubuntu011"}


def test_what_cannot_be_restored_is_named_and_restored_when_its_trunk_has_come(tmp_path: Path) -> None:
    apply(make_host(tmp_path), make_desired(make_container()))
    kernel = FakeKernel()
    host = make_host(tmp_path, kernel)
    assert host.restore() == {"demo"}
    assert host.restore(frozenset({"other"})) == frozenset()
    kernel.foreign[TRUNK.name] = TRUNK
    assert host.restore(frozenset({"demo"})) == frozenset()
    assert ("vlan", "eth1.100") in kernel.things


def test_an_older_generation_is_stale_and_so_is_the_same_with_other_contents(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    apply(host, make_desired(make_container(), generation=2))
    for wrong in (make_desired(make_container(), generation=1), make_desired(generation=2)):
        with pytest.raises(CaasError) as caught:
            apply(host, wrong)
        assert caught.value.code is Code.STALE
    assert host.generations() == {"demo": 2}


def test_after_a_failure_the_former_state_is_saved_again(tmp_path: Path) -> None:
    containers = FakeContainers()
    host = make_host(tmp_path, containers=containers)
    first = make_desired(make_container())
    apply(host, first)
    containers.fail("start", "demo.ubuntu012")
    second = make_desired(make_container(), make_container("ubuntu012", number=51), generation=2)
    with pytest.raises(CaasError, match="simulated"):
        apply(host, second)
    assert SavedStates(tmp_path).load() == {"demo": first}
    assert set(containers.containers) == {"demo.ubuntu011"}


def test_a_container_that_was_deleted_before_a_failure_is_not_made_again_by_a_restart(tmp_path: Path) -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    host = make_host(tmp_path, kernel, containers)
    apply(host, make_desired(make_container(), make_container("ubuntu012", number=51)))
    containers.fail("delete", "demo.ubuntu012")
    with pytest.raises(CaasError, match="simulated"):
        apply(host, make_desired(generation=2))
    assert set(containers.containers) == {"demo.ubuntu012"}
    make_host(tmp_path, kernel, containers).restore()
    assert set(containers.containers) == {"demo.ubuntu012"}


def test_the_state_of_another_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaasError, match="host2"):
        apply(make_host(tmp_path), replace(make_desired(), host="host2"))


def test_two_clusters_that_want_one_vid_conflict_before_anything(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, make_desired())
    writes = kernel.writes
    with pytest.raises(CaasError) as caught:
        apply(host, make_desired(cluster="blue"))
    assert caught.value.code is Code.CONFLICT
    assert kernel.writes == writes


def tunnelling(cluster: str, *numbers: int, vid: int) -> ClusterHost:
    """A cluster with a bridge of its own and tunnels to those hosts."""
    desired = make_desired(cluster=cluster, vid=vid)
    for number in numbers:
        desired = replace(desired, state=desired.state.union(make_tunnelled(number)))
    return desired


def shared(kernel: FakeKernel) -> set[str]:
    return {name for kind, name in kernel.things if kind not in ("bridge", "vlan")}


def names(number: int) -> set[str]:
    state = make_tunnelled(number)
    return {thing.name for things in (state.links, state.routes, state.rules) for thing in things}


def test_a_tunnel_that_two_clusters_share_is_made_once_and_goes_with_the_last(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, tunnelling("demo", 1, vid=100))
    assert apply(host, tunnelling("blue", 1, 2, vid=200)).kernel_writes == 2 + len(names(2))
    assert shared(kernel) == names(1) | names(2)
    kernel.calls.clear()
    host.destroy("blue", dry_run=False, **ignore)
    assert shared(kernel) == names(1)
    assert all(name not in names(1) | {"lxcbr100", "eth1.100"} for _, name in kernel.calls)
    host.destroy("demo", dry_run=False, **ignore)
    assert not kernel.things


def test_the_first_of_two_clusters_down_leaves_the_other_s_tunnel(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, tunnelling("demo", 1, 2, vid=100))
    apply(host, tunnelling("blue", 1, vid=200))
    changed = replace(tunnelling("demo", 2, vid=100), generation=2)
    assert apply(host, changed).kernel_writes == 0, "blue still needs what demo does not"
    host.destroy("demo", dry_run=False, **ignore)
    assert shared(kernel) == names(1)
    planned: list[Plan] = []
    host.destroy("blue", dry_run=True, on_plan=planned.append, on_done=lambda _: None)
    assert {action.name for action in planned[0]} == names(1) | {"lxcbr200", "eth1.200"}


def test_what_another_cluster_lost_is_not_mended_for_it(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, tunnelling("demo", 1, vid=100))
    (route, _) = make_tunnelled(1).routes
    del kernel.things["route", route.name]
    assert apply(host, tunnelling("blue", vid=200)).kernel_writes == 2
    assert ("route", route.name) not in kernel.things
    assert [action.name for action in host.plan(tunnelling("demo", 1, vid=100))] == [route.name]


def test_a_tunnel_that_no_saved_state_wants_goes_at_the_next_start(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, tunnelling("demo", 1, vid=100))
    apply(host, make_desired(cluster="blue", vid=200))
    (stray,) = make_tunnelled(3).links
    kernel.create(stray)
    make_host(tmp_path, kernel).restore()
    assert shared(kernel) == names(1)


def test_destroy_removes_forgets_and_succeeds_twice(tmp_path: Path) -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    host = make_host(tmp_path, kernel, containers)
    apply(host, make_desired(make_container()))
    host.destroy("demo", dry_run=True, **ignore)
    assert containers.containers
    host.destroy("demo", dry_run=False, **ignore)
    assert not kernel.things
    assert not containers.containers
    assert SavedStates(tmp_path).load() == {}
    assert host.destroy("demo", dry_run=False, **ignore).kernel_writes == 0


def test_a_removal_that_comes_late_removes_nothing(tmp_path: Path) -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    host = make_host(tmp_path, kernel, containers)
    apply(host, make_desired(make_container(), generation=4))
    writes = kernel.writes + containers.writes
    for late in (3, 4):
        with pytest.raises(CaasError, match="is older than generation 4, in force") as caught:
            host.destroy("demo", generation=late, dry_run=False, **ignore)
        assert caught.value.code is Code.STALE
    assert kernel.writes + containers.writes == writes
    assert host.removed() == {}
    host.destroy("demo", generation=5, dry_run=False, **ignore)
    assert not containers.containers
    host.destroy("demo", generation=3, dry_run=False, **ignore)
    assert host.removed() == {"demo": 5}, "already gone is success, and nothing goes back"


@pytest.mark.parametrize("known", [True, False])
def test_an_apply_from_before_a_removal_brings_nothing_back(tmp_path: Path, known: bool) -> None:
    host = make_host(tmp_path)
    if known:
        apply(host, make_desired(make_container(), generation=4))
    host.destroy("demo", generation=5, dry_run=False, **ignore)
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    for late in (4, 5):
        with pytest.raises(CaasError, match="comes after the removal at generation 5") as caught:
            apply(host, make_desired(make_container(), generation=late))
        assert caught.value.code is Code.STALE
        with pytest.raises(CaasError, match="comes after the removal"):
            host.plan(make_desired(generation=late))
    assert kernel.writes == 0
    assert apply(host, make_desired(make_container(), generation=6)).kernel_writes == 3


def test_a_removal_without_a_generation_takes_the_next_and_remembers_it(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    apply(host, make_desired(generation=4))
    host.destroy("demo", dry_run=False, **ignore)
    assert make_host(tmp_path).removed() == {"demo": 5}
    host.destroy("unknown", dry_run=False, **ignore)
    assert host.removed() == {"demo": 5}


def test_a_removal_that_fails_refuses_what_is_older_all_the_same(tmp_path: Path) -> None:
    kernel = FakeKernel(foreign=[TRUNK])
    host = make_host(tmp_path, kernel)
    apply(host, make_desired(generation=4))
    kernel.fail("delete", "lxcbr100")
    with pytest.raises(CaasError, match="simulated"):
        host.destroy("demo", generation=6, dry_run=False, **ignore)
    with pytest.raises(CaasError, match="older than 6"):
        apply(host, make_desired(generation=5))
    make_host(tmp_path, kernel).restore()
    assert make_host(tmp_path).removed() == {"demo": 6}, "ended by the next agent"
    assert not kernel.things


def test_a_destroy_that_was_cut_off_goes_on_at_the_next_start(tmp_path: Path) -> None:
    kernel, containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
    host = make_host(tmp_path, kernel, containers)
    apply(host, make_desired(make_container()))
    kernel.fail("delete", "lxcbr100")
    with pytest.raises(CaasError, match="simulated"):
        host.destroy("demo", dry_run=False, **ignore)
    make_host(tmp_path, kernel, containers).restore()
    assert not kernel.things
    assert SavedStates(tmp_path).load() == {}


def test_a_saved_state_that_cannot_be_read_is_an_error_never_skipped(tmp_path: Path) -> None:
    apply(make_host(tmp_path), make_desired())
    (tmp_path / "demo.json").write_text('{"cluster": ')
    with pytest.raises(CaasError, match=r"demo\.json"):
        make_host(tmp_path)


class FakeMerging:
    """MergeDoor in memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self) -> None:
        self.calls.append("hold")

    def release(self) -> None:
        self.calls.append("release")

    def lacks(self) -> tuple[Lack, ...]:
        return (Lack(what="no KSM", mend="another kernel"),)


def test_pages_are_merged_while_a_saved_cluster_wants_it(tmp_path: Path) -> None:
    merging, dense = FakeMerging(), replace(make_container(), merge=True)
    kernel, containers, saved = FakeKernel(foreign=[TRUNK]), FakeContainers(), SavedStates(tmp_path)
    host = Host("host1", kernel, containers, saved, merging)
    apply(host, make_desired(dense))
    assert merging.calls == ["hold"]
    other = make_container("other", number=51, cluster="blue", vid=200)
    apply(host, make_desired(other, cluster="blue", vid=200))
    assert merging.calls == ["hold", "hold"]
    Host("host1", kernel, containers, saved, merging).restore()
    assert merging.calls[2:] == ["hold"]
    host.destroy("demo", dry_run=False, **ignore)
    assert set(merging.calls[3:]) == {"release"}


def test_a_failed_apply_lets_go_of_merging(tmp_path: Path) -> None:
    merging, containers = FakeMerging(), FakeContainers()
    host = Host("host1", FakeKernel(foreign=[TRUNK]), containers, SavedStates(tmp_path), merging)
    containers.fail("start", "demo.ubuntu011")
    with pytest.raises(CaasError, match="simulated"):
        apply(host, make_desired(replace(make_container(), merge=True)))
    assert merging.calls == ["hold", "release"]


@pytest.mark.parametrize("merge", [True, False])
def test_merging_is_asked_of_the_kernel_only_where_it_is_wanted(tmp_path: Path, merge: bool) -> None:
    host = Host("host1", FakeKernel(foreign=[TRUNK]), FakeContainers(), SavedStates(tmp_path), FakeMerging())
    lacks = host.lacks(make_desired(replace(make_container(), merge=merge)))
    assert [lack.what for lack in lacks] == (["no KSM"] if merge else [])
