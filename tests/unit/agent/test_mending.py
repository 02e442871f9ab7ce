"""The watch over a host on doors in memory, with a clock of the test's own: what is mended, when, and what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.doors import ForeignLink, Lack
from agent.core.drift import FIRST_WAIT, MENDS_MAX, Drift, Touch
from agent.host import Host
from agent.mending import BUSY, IDLE, OBSTACLES, REBOOT, Mender
from agent.saved import SavedStates
from proto.model import Bridge, Container, HostState
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.things import TRUNK, make_container, make_desired

LINK = [Touch("link", "ip (pid 7)")]
NAME = "demo.ubuntu011"


class Silence:
    """WatchDoor that hears nothing."""

    def wait(self, seconds: float) -> Sequence[Touch]:
        return []

    def wake(self) -> None:
        return None


class FakeMends:
    """MendDoor over a FakeKernel; links in `down` are down, ports in `stray` are not as they should be."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.down: set[str] = set()
        self.stray: dict[str, str] = {}

    def raise_links(self, names: Sequence[str]) -> Sequence[str]:
        raised = [name for name in names if name in self.down]
        self.down -= set(raised)
        return raised

    def find_stray(self, containers: Sequence[Container]) -> Mapping[str, str]:
        return {one.name: self.stray[one.name] for one in containers if one.name in self.stray}

    def join(self, container: Container) -> None:
        del self.stray[container.name]

    def rename(self, before: Bridge, name: str) -> None:
        self.kernel.things["bridge", name] = replace(before, name=name)
        del self.kernel.things["bridge", before.name]


class Filtered(FakeKernel):
    """With something of the host's own in the way."""

    def __init__(self) -> None:
        super().__init__(foreign=[TRUNK])
        self.lacking: tuple[Lack, ...] = ()

    def lacks(self, desired: HostState | None) -> Sequence[Lack]:
        return self.lacking


class Rig:
    """A host with one running container, and its watch."""

    def __init__(self, folder: Path) -> None:
        self.kernel, self.containers = Filtered(), FakeContainers()
        self.mends = FakeMends(self.kernel)
        self.host = Host("host1", self.kernel, self.containers, SavedStates(folder))
        self.desired = make_desired(make_container())
        self.host.apply(self.desired, on_plan=lambda _: None, on_done=lambda _: None)
        self.time = 1000.0
        self.mender = Mender(self.host, Silence(), self.mends, clock=lambda: self.time, now=lambda: self.time)
        assert self.look() == IDLE
        self.before = (self.kernel.writes, self.containers.writes)

    def look(self, touches: Sequence[Touch] = ()) -> float | None:
        return self.mender.look(touches)

    def told(self) -> list[Drift]:
        return list(self.host.drift.last())

    def is_whole(self) -> bool:
        return self.host.plan(self.desired) == ()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_look_at_a_host_that_is_whole_writes_and_tells_nothing(rig: Rig) -> None:
    assert rig.look(LINK) == IDLE
    assert (rig.kernel.writes, rig.containers.writes) == rig.before
    assert rig.told() == []


def test_what_is_gone_is_made_again_and_told_with_whom(rig: Rig) -> None:
    del rig.kernel.things["vlan", "eth1.100"]
    assert rig.look(LINK) == IDLE
    assert rig.is_whole()
    (event,) = rig.told()
    assert str(event) == "vlan eth1.100: missing, by ip (pid 7): mended"
    assert (event.time, event.cluster) == (1000.0, "demo")


def test_what_is_down_is_set_up_and_a_stray_port_joined(rig: Rig) -> None:
    rig.mends.down, rig.mends.stray = {"lxcbr100", "eth1"}, {NAME: "on no bridge"}
    rig.look(LINK)
    assert (rig.mends.down, rig.mends.stray) == ({"eth1"}, {})
    assert [(event.kind, event.found) for event in rig.told()] == [("link", "it was down"), ("port", "on no bridge")]


def test_a_bridge_with_another_name_keeps_what_it_has(rig: Rig) -> None:
    bridge = rig.kernel.things.pop(("bridge", "lxcbr100"))
    assert isinstance(bridge, Bridge)
    rig.kernel.things["bridge", "hers"] = replace(bridge, name="hers")
    rig.kernel.calls.clear()
    rig.look(LINK)
    assert rig.is_whole()
    assert rig.kernel.calls == []
    assert [event.found for event in rig.told()] == ["it was called hers"]


def test_who_keeps_breaking_a_thing_is_left_alone_and_told_of(rig: Rig) -> None:
    """However often somebody breaks it: no more mends than patience allows, and each look says when to come again."""
    rig.kernel.calls.clear()
    again: float | None = None
    for _ in range(60):
        rig.kernel.things.pop(("vlan", "eth1.100"), None)
        again = rig.look(LINK)
        rig.time += 1
    mends = [name for verb, name in rig.kernel.calls if verb == "create"]
    assert MENDS_MAX <= len(mends) <= MENDS_MAX + 4
    fight = next(event for event in rig.told() if "somebody keeps changing it" in event.found)
    assert f"left alone for {FIRST_WAIT:.0f} s" in fight.found
    assert again is not None
    rig.time += again
    rig.look()
    assert rig.is_whole()


def test_a_mend_that_fails_is_told_tried_again_and_not_for_ever(rig: Rig) -> None:
    del rig.kernel.things["vlan", "eth1.100"]
    rig.kernel.fail("create", "eth1.100")
    assert rig.look(LINK) == BUSY
    assert not rig.kernel.armed
    (event,) = rig.told()
    assert (event.mended, event.found) == (False, "missing; create eth1.100: simulated")
    rig.look()
    assert rig.is_whole()
    for _ in range(20):
        rig.kernel.things.pop(("vlan", "eth1.100"), None)
        rig.kernel.fail("create", "eth1.100")
        again = rig.look(LINK)
    assert again is not None
    assert again >= FIRST_WAIT


def test_a_container_that_stopped_is_started_but_one_that_reboots_is_not(rig: Rig) -> None:
    stopped = replace(rig.containers.containers[NAME], running=False)
    rig.containers.containers[NAME] = stopped
    assert rig.look(LINK) == pytest.approx(REBOOT)
    rig.containers.containers[NAME] = replace(stopped, running=True)
    rig.time += REBOOT
    assert rig.look() == IDLE
    assert rig.told() == []
    rig.containers.containers[NAME] = stopped
    assert rig.look(LINK) == pytest.approx(REBOOT)
    rig.time += REBOOT
    rig.look()
    assert rig.is_whole()
    assert [(event.kind, event.name, event.found) for event in rig.told()] == [("container", NAME, "it does not run")]


def test_a_container_whose_init_keeps_dying_is_not_started_hot(rig: Rig) -> None:
    rig.containers.calls.clear()
    for _ in range(600):
        rig.containers.containers[NAME] = replace(rig.containers.containers[NAME], running=False)
        rig.look(LINK)
        rig.time += 0.2
    assert 5 <= len([1 for verb, _ in rig.containers.calls if verb == "start"]) <= 10


def test_a_container_that_is_gone_is_not_made_anew(rig: Rig) -> None:
    del rig.containers.containers[NAME]
    rig.look(LINK)
    assert rig.containers.containers == {}
    assert rig.told() == []


def test_a_link_of_our_name_that_is_not_ours_is_told_once(rig: Rig) -> None:
    del rig.kernel.things["vlan", "eth1.100"]
    rig.kernel.foreign["eth1.100"] = ForeignLink(name="eth1.100", kind="dummy", mtu=1500, up=True)
    for _ in range(3):
        assert rig.look(LINK) == IDLE
        rig.time += IDLE + 1
    (event,) = rig.told()
    assert "exists and is not ours" in event.found
    assert not event.mended
    assert "ip link del" in event.hint
    del rig.kernel.foreign["eth1.100"]
    rig.look(LINK)
    assert rig.is_whole()


def test_a_filter_of_the_host_s_own_is_told_once_with_its_mend_and_left(rig: Rig) -> None:
    rig.kernel.lacking = (Lack(what="nft chain ip filter FORWARD drops", mend="nft insert rule"),)
    touches = [Touch("nft", "dockerd (pid 9)")]
    again = rig.look(touches)
    assert again == OBSTACLES, "it was looked for just now"
    rig.time += OBSTACLES
    for _ in range(3):
        rig.look()
        rig.time += IDLE + 1
    (event,) = rig.told()
    assert (event.by, event.mended, event.hint) == ("dockerd (pid 9)", False, "nft insert rule")
    assert (rig.kernel.writes, rig.containers.writes) == rig.before


def test_nothing_is_looked_at_while_a_change_is_under_way(rig: Rig) -> None:
    del rig.kernel.things["vlan", "eth1.100"]
    with rig.host.alone():
        assert rig.look(LINK) is None
    assert ("vlan", "eth1.100") not in rig.kernel.things
    rig.look(LINK)
    assert rig.is_whole()


def test_a_removal_that_was_cut_off_is_not_gone_on_with(rig: Rig) -> None:
    rig.kernel.fail("delete", "lxcbr100")
    with pytest.raises(Exception, match="simulated"):
        rig.host.destroy("demo", dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
    rig.kernel.calls.clear()
    assert rig.look(LINK) == IDLE
    assert rig.kernel.calls == []
