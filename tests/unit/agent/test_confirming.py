"""A change of the network that nobody confirms is taken back: when, what of it, and what is left of that after a crash,
a restart, a reboot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.confirming import RETRY, WITHIN_MAX, MachineClock, Unconfirmed, check_within
from agent.core.doors import ObservedNetwork
from agent.host import Host
from agent.saved import SavedStates
from proto.errors import CaasError, Code
from proto.model import ClusterHost, HostState
from tests.support.clock import FakeClock
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.scenarios import ROUTED
from tests.support.things import TRUNK, make_container, make_desired, make_state

ONE, TWO = make_container(), make_container("ubuntu012", number=51)
FIRST = make_desired(ONE)
#: Another VID: the old VLAN goes, a new one comes.
SECOND = replace(make_desired(vid=101, generation=2), state=make_state(ONE).union(make_state(vid=101)))
OLD, NEW = {("bridge", "lxcbr100"), ("vlan", "eth1.100")}, {("bridge", "lxcbr101"), ("vlan", "eth1.101")}


class Rig:
    """A host, its disk, and agents over it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.kernel, self.containers = FakeKernel(foreign=[TRUNK]), FakeContainers()
        self.host = self.start()

    def start(self) -> Host:
        self.clock.restart()
        self.host = Host("host1", self.kernel, self.containers, SavedStates(self.folder), clock=self.clock)
        return self.host

    def apply(self, desired: ClusterHost, within: float = 30.0) -> None:
        self.host.apply(desired, confirm_within=within, on_plan=lambda _: None, on_done=lambda _: None)

    def things(self) -> set[tuple[str, str]]:
        return set(self.kernel.things)

    def waits_on_disk(self) -> dict[str, Unconfirmed]:
        return SavedStates(self.folder).unconfirmed.load()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.apply(FIRST, within=0)
    return made


def test_what_is_not_confirmed_is_taken_back_and_containers_stay(rig: Rig) -> None:
    rig.apply(SECOND)
    assert rig.things() == OLD | NEW
    writes = rig.containers.writes
    rig.clock.advance(29.9)
    assert rig.things() == OLD | NEW
    assert rig.host.unconfirmed()["demo"] == pytest.approx(0.1)
    rig.clock.advance(0.2)
    assert rig.things() == OLD
    assert rig.containers.writes == writes
    assert rig.containers.containers["demo.ubuntu011"].running
    assert (rig.host.unconfirmed(), rig.host.taken_back()) == ({}, ["demo"])
    assert rig.waits_on_disk() == {}
    saved = SavedStates(rig.folder).load()["demo"]
    assert (saved.generation, saved.taken_back, saved.state) == (2, True, FIRST.state)


def test_what_is_confirmed_stays(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.host.confirm("demo", 2, hold=False)
    assert rig.waits_on_disk() == {}
    rig.clock.advance(1000)
    assert rig.things() == OLD | NEW
    rig.host.confirm("demo", 2, hold=False)
    assert rig.host.taken_back() == []


def test_who_calls_a_moment_too_early_is_not_sent_away(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.now += 29.999
    rig.host.take_back_due()
    assert rig.things() == OLD


def test_who_holds_it_gets_the_whole_time_again_each_time(rig: Rig) -> None:
    rig.apply(SECOND)
    for _ in range(5):
        rig.clock.advance(25)
        rig.host.confirm("demo", 2, hold=True)
        assert rig.host.unconfirmed() == {"demo": 30.0}
    rig.clock.advance(29)
    assert rig.things() == OLD | NEW
    rig.clock.advance(1)
    assert rig.things() == OLD


def test_the_first_state_of_a_cluster_is_taken_back_to_its_containers_on_a_bare_bridge(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.apply(ROUTED)
    bridge = ("bridge", ROUTED.state.links[0].name)
    assert len(rig.things()) > 5
    rig.clock.advance(30)
    assert rig.things() == {bridge}
    assert {name for name, one in rig.containers.containers.items() if one.running} == {"demo.c11", "demo.c12"}
    rig.host.destroy("demo", generation=9, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
    assert (rig.things(), rig.containers.containers) == (set(), {})


def test_a_change_of_containers_alone_waits_for_nobody(rig: Rig) -> None:
    more = make_desired(ONE, TWO, generation=2)
    rig.apply(more)
    assert (rig.host.unconfirmed(), rig.waits_on_disk()) == ({}, {})
    rig.clock.advance(1000)
    assert SavedStates(rig.folder).load() == {"demo": more}
    rig.host.confirm("demo", 2, hold=False)


def test_of_several_changes_what_was_before_the_first_comes_back(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(20)
    third = replace(SECOND, generation=3, state=SECOND.state.union(make_state(vid=102)))
    rig.apply(third)
    with pytest.raises(CaasError, match="generation 3 waits to be confirmed, not 2") as caught:
        rig.host.confirm("demo", 2, hold=False)
    assert caught.value.code is Code.STALE
    rig.clock.advance(29)
    assert ("vlan", "eth1.102") in rig.things()
    rig.clock.advance(1)
    assert rig.things() == OLD
    assert SavedStates(rig.folder).load()["demo"].generation == 3


def test_a_later_change_of_containers_alone_waits_with_it(rig: Rig) -> None:
    rig.apply(SECOND)
    third = replace(SECOND, generation=3, state=replace(SECOND.state, containers=(ONE, TWO)))
    rig.apply(third)
    rig.clock.advance(30)
    assert rig.things() == OLD
    assert set(rig.containers.containers) == {"demo.ubuntu011", "demo.ubuntu012"}


def test_the_same_change_again_does_not_wait_longer(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(20)
    rig.apply(SECOND)
    assert rig.host.unconfirmed() == {"demo": 10.0}


def test_a_change_that_fails_leaves_what_waited_waiting(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(20)
    rig.kernel.fail("create", "lxcbr102")
    with pytest.raises(CaasError, match="simulated"):
        rig.apply(replace(SECOND, generation=3, state=SECOND.state.union(make_state(vid=102))))
    assert rig.host.unconfirmed() == {"demo": 10.0}
    assert rig.waits_on_disk()["demo"].generation == 2
    rig.clock.advance(10)
    assert rig.things() == OLD


def test_what_is_confirmed_while_the_next_change_fails_waits_no_more(rig: Rig) -> None:
    rig.apply(SECOND)
    observe = rig.kernel.observe

    def confirmed_meanwhile() -> ObservedNetwork:
        rig.kernel.observe = observe  # type: ignore[method-assign]
        rig.host.confirm("demo", 2, hold=False)
        raise CaasError(Code.FAILED, "simulated")

    rig.kernel.observe = confirmed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(CaasError, match="simulated"):
        rig.apply(replace(SECOND, generation=3, state=SECOND.state.union(make_state(vid=102))))
    assert (rig.host.unconfirmed(), rig.waits_on_disk()) == ({}, {})
    rig.clock.advance(1000)
    assert rig.things() == OLD | NEW


def test_a_first_change_that_fails_leaves_nothing_waiting(rig: Rig) -> None:
    rig.kernel.fail("create", "lxcbr101")
    with pytest.raises(CaasError, match="simulated"):
        rig.apply(SECOND)
    assert (rig.host.unconfirmed(), rig.waits_on_disk()) == ({}, {})
    rig.clock.advance(1000)
    assert SavedStates(rig.folder).load() == {"demo": FIRST}


def test_what_was_taken_back_is_refused_and_the_next_generation_is_not(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(30)
    for late in (
        lambda: rig.apply(SECOND),
        lambda: rig.host.plan(SECOND),
        lambda: rig.host.confirm("demo", 2, hold=False),
    ):
        with pytest.raises(CaasError, match="taken back") as caught:
            late()
        assert caught.value.code is Code.STALE
    assert rig.things() == OLD
    third = replace(SECOND, generation=3)
    rig.apply(third)
    rig.host.confirm("demo", 3, hold=False)
    assert (rig.things(), rig.host.taken_back()) == (OLD | NEW, [])
    with pytest.raises(CaasError, match="no state to ask for"):
        rig.apply(replace(third, generation=4, taken_back=True))


def test_a_second_time_it_is_taken_back_to_the_same(rig: Rig) -> None:
    for generation in (2, 3):
        rig.apply(replace(SECOND, generation=generation))
        rig.clock.advance(30)
        assert (rig.things(), rig.host.taken_back()) == (OLD, ["demo"])


def test_a_restart_of_the_agent_does_not_stop_the_clock(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(12)
    rig.start().restore()
    assert rig.host.unconfirmed() == {"demo": 18.0}
    rig.clock.wall -= 10_000
    rig.start().restore()
    assert rig.host.unconfirmed() == {"demo": 18.0}, "nobody sets the time since the boot"
    rig.clock.advance(18)
    assert rig.things() == OLD


def test_an_agent_that_comes_too_late_takes_it_back_at_once(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.restart()
    rig.clock.advance(31)
    rig.start().restore()
    assert rig.things() == OLD
    assert rig.host.taken_back() == ["demo"]


@pytest.mark.parametrize(("off", "left"), [(10.0, 20.0), (40.0, None), (-5000.0, 30.0)])
def test_over_a_reboot_the_time_of_day_counts(rig: Rig, off: float, left: float | None) -> None:
    rig.apply(SECOND)
    rig.clock.reboot(off)
    rig.kernel.things.clear()
    rig.start().restore()
    if left is None:
        assert rig.things() == OLD
        return
    assert rig.host.unconfirmed() == {"demo": left}
    assert rig.things() == OLD | NEW
    rig.clock.advance(left)
    assert rig.things() == OLD


def test_a_restart_after_the_confirmation_changes_nothing(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.host.confirm("demo", 2, hold=False)
    rig.clock.advance(100)
    rig.start().restore()
    rig.clock.advance(100)
    assert rig.things() == OLD | NEW


def test_what_cannot_be_taken_back_is_tried_again_until_it_is(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.kernel.fail("delete", "lxcbr101")
    rig.clock.advance(30)
    assert ("bridge", "lxcbr101") in rig.things()
    assert rig.host.taken_back() == ["demo"]
    rig.clock.advance(RETRY)
    assert rig.things() == OLD


def test_a_network_that_is_another_clusters_now_is_not_made_again(rig: Rig) -> None:
    rig.apply(replace(make_desired(vid=101, generation=2), state=make_state(vid=101)))
    blue = make_container("blue1", number=60, cluster="blue", vid=100)
    rig.apply(make_desired(blue, cluster="blue", vid=100), within=0)
    rig.clock.advance(30)
    assert rig.things() == OLD, "blue's"
    assert SavedStates(rig.folder).load()["demo"].state == HostState()
    assert rig.host.plan(make_desired(blue, cluster="blue", vid=100)) == ()


def test_where_nothing_is_left_it_is_known_all_the_same(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.apply(make_desired())
    rig.clock.advance(30)
    assert rig.things() == set()
    rig.start().restore()
    assert rig.host.taken_back() == ["demo"], "else the next change would be of the same generation"
    assert rig.host.removed() == {}
    rig.apply(make_desired(generation=2))
    assert rig.things() == OLD


def test_a_removal_ends_the_waiting(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.host.destroy("demo", generation=3, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
    assert (rig.host.unconfirmed(), rig.waits_on_disk()) == ({}, {})
    rig.clock.advance(100)
    assert rig.things() == set()
    with pytest.raises(CaasError, match="nothing is in force"):
        rig.host.confirm("demo", 2, hold=False)


def test_a_change_that_waits_for_nobody_ends_the_waiting_of_the_one_before(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.apply(replace(SECOND, generation=3), within=0)
    assert (rig.host.unconfirmed(), rig.waits_on_disk()) == ({}, {})


def test_it_is_told(rig: Rig) -> None:
    rig.apply(SECOND)
    rig.clock.advance(30)
    (event,) = rig.host.drift.last("demo")
    assert str(event) == "network demo: generation 2 changed it, and was not confirmed within 30 s: mended"
    assert "caas up" in event.hint
    assert event.time == rig.clock.wall


@pytest.mark.parametrize("seconds", [-1.0, WITHIN_MAX + 1, float("nan"), float("inf")])
def test_how_long_it_may_wait_is_limited(seconds: float) -> None:
    assert check_within(0) == 0
    assert check_within(WITHIN_MAX) == WITHIN_MAX
    with pytest.raises(CaasError, match=r"within 0\.\.3600 seconds") as caught:
        check_within(seconds)
    assert caught.value.code is Code.INVALID


def test_the_machines_own_clock_calls_in_time() -> None:
    import threading

    clock, called = MachineClock(), threading.Event()
    began = clock.boot_seconds()
    clock.call_later(0.05, called.set)
    assert called.wait(10)
    assert clock.boot_seconds() - began >= 0.05
    assert len(clock.boot()) == 36
    assert clock.wall_seconds() > 1_600_000_000
