"""Hosts that are away: a change is accepted, the rest is done, and what waits is done when they are back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator import bringup, catching_up, preparing, status, teardown
from coordinator.catching_up import CatchingUp
from coordinator.claims import Claims
from coordinator.config import Settings, load_bytes
from coordinator.journal import Journal, Record
from coordinator.preparing import find_newer
from coordinator.progress import Progress
from coordinator.reading import read_request
from coordinator.survey import Survey
from proto import coordinator_pb2 as pb
from proto import natbox_pb2
from proto.errors import CaasError, Code
from proto.model import Container, Datapath
from tests.support.fleet import FakeFleet

ONE = """\
name: demo
hosts:
  host1: {address: 10.9.0.1, trunk: eth1}
  host2: {address: 10.9.0.2, trunk: eth1}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24}
containers:
  ubuntu011: {host: host1, network: cluster, roles: [controller, compute]}
"""
TWO = ONE + "  ubuntu012: {host: host2, network: cluster, roles: [compute]}\n"
THREE = TWO + "  ubuntu013: {host: host1, network: cluster, roles: [compute]}\n"
NO_HOST2 = ONE.replace("  host2: {address: 10.9.0.2, trunk: eth1}\n", "")
API_AWAY = TWO.replace("host: host1", "host: host3").replace(
    "host2:", "host3: {address: 10.9.0.3, trunk: eth1}\n  host2:"
)


class Rig:
    def __init__(self, fleet: FakeFleet, journal: Journal) -> None:
        self.fleet, self.journal = fleet, journal
        self.events: list[pb.Event] = []
        self.on_event: Callable[[pb.Event], object] = lambda event: None

    async def up(self, text: str, name: str = "demo", **flags: Any) -> dict[str, Any]:
        self.events.clear()
        file = pb.FileRequest(content=text.encode(), file_name="demo.yaml")
        reading = await read_request(Settings(), file)
        allowed = {"remove": False, "restart": False, **flags}
        return await bringup.up(self.fleet, self.journal, reading, self.progress(name), **allowed)  # type: ignore[arg-type]

    async def plan(self, text: str) -> dict[str, Any]:
        reading = await read_request(Settings(), pb.FileRequest(content=text.encode(), file_name="demo.yaml"))
        return await bringup.plan(self.fleet, self.journal, reading)  # type: ignore[arg-type]

    async def down(self, **options: Any) -> dict[str, Any]:
        return await teardown.down(self.fleet, self.journal, "demo", self.progress(), **options)  # type: ignore[arg-type]

    async def catch_up(self) -> dict[str, Any]:
        await teardown.go_on(self.fleet, self.journal, "demo", self.progress())  # type: ignore[arg-type]
        return await bringup.catch_up(self.fleet, self.journal, "demo", self.progress())  # type: ignore[arg-type]

    async def status(self) -> dict[str, Any]:
        return await status.status(self.fleet, self.journal, "demo")  # type: ignore[arg-type]

    async def back(self, host: str) -> None:
        """The agent of *host* runs again, and the channel has noticed."""
        await self.fleet.start_agent(host)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(CaasError):
                    await self.fleet.agent(host, "").probe()
                    return
                await asyncio.sleep(0.05)

    def containers(self, host: str) -> set[str]:
        return set(self.fleet.containers[host].containers)

    def progress(self, name: str = "demo") -> Progress:
        def emit(event: pb.Event) -> None:
            self.events.append(event)
            self.on_event(event)

        return Progress(name, self.journal, emit)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    fleet = FakeFleet(tmp_path)
    await fleet.start("host1", "host2")
    yield Rig(fleet, Journal(tmp_path / "journal.db"))
    await fleet.stop()


async def test_a_change_is_accepted_while_a_host_is_away_and_done_when_it_is_back(rig: Rig) -> None:
    await rig.up(ONE)
    await rig.fleet.stop_agent("host2")
    summary = await rig.up(TWO)
    lag = summary["behind"]["host2"]
    assert (lag["generation"], lag["wanted"], lag["leaving"]) == (1, 2, False)
    assert lag["why"].startswith("host2: ")
    assert lag["pending"][0] == "create container demo.ubuntu012"
    assert {"compute/server:ubuntu012", "verify/boot:ubuntu012"} < set(lag["pending"])
    assert not any("ubuntu011" in one for one in lag["pending"]), lag
    assert not [event for event in rig.events if event.state == pb.Event.FAILED]
    shown = await rig.status()
    assert (shown["state"], shown["generation"], shown["behind"]["host2"]["generation"]) == ("degraded", 2, 1)
    await rig.back("host2")
    (first, *rest) = (await rig.status())["behind"]["host2"]["pending"]
    assert (first, "verify/boot:ubuntu012" in rest) == ("create bridge lxcbr100", True), "it was asked what it will do"
    done = await rig.catch_up()
    assert (done["behind"], done["computes_up"], rig.containers("host2")) == ({}, 2, {"demo.ubuntu012"})
    shown = await rig.status()
    assert (shown["state"], shown["behind"]) == ("up", {})
    assert await rig.plan(TWO) == {"hosts": {}, "natbox": [], "steps": []}


async def test_everything_is_done_for_who_is_there(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    planned = await rig.plan(THREE)
    assert list(planned["hosts"]) == ["host1"]
    assert planned["behind"]["host2"]["pending"] == []
    summary = await rig.up(THREE)
    assert summary["computes_up"] == 3
    assert rig.containers("host1") == {"demo.ubuntu011", "demo.ubuntu013"}
    assert "verify/boot:ubuntu013" in summary["steps"]
    writes, generation = rig.fleet.writes(), summary["generation"]
    again = await rig.up(THREE)
    assert (again["generation"], again["steps"], rig.fleet.writes()) == (generation, [], writes)
    assert again["behind"]["host2"]["since"] == summary["behind"]["host2"]["since"]


async def test_what_is_remembered_of_a_host_that_is_away_stays_its_own(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    await rig.up(THREE)
    desired = rig.fleet.containers["host1"].containers["demo.ubuntu013"]
    assert str(desired.nic.address.ip) == "192.168.10.3", "192.168.10.2 is ubuntu012's"


async def test_with_the_api_s_host_away_nova_waits(rig: Rig) -> None:
    await rig.fleet.start("host3")
    text = API_AWAY + "  ubuntu014: {host: host2, network: cluster, roles: [compute]}\n"
    await rig.up(API_AWAY)
    await rig.fleet.stop_agent("host3")
    summary = await rig.up(text)
    assert (summary["computes_up"], summary["steps"]) == (None, [])
    assert rig.containers("host2") == {"demo.ubuntu012", "demo.ubuntu014"}
    pending = {host: lag["pending"] for host, lag in summary["behind"].items()}
    assert pending == {"host3": []}
    await rig.fleet.stop_agent("host2")
    assert set((await rig.up(text))["behind"]) == {"host2", "host3"}, "all are away"
    await rig.back("host2")
    await rig.back("host3")
    assert (await rig.catch_up())["computes_up"] == 3


async def test_removing_from_a_host_that_is_away_needs_leave_too(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    with pytest.raises(CaasError, match=r"host2: delete container demo\.ubuntu012 \(host2 is away\)") as caught:
        await rig.up(ONE)
    assert caught.value.code is Code.REFUSED
    summary = await rig.up(ONE, remove=True)
    assert (summary["behind"]["host2"]["pending"], summary["computes_up"]) == (["delete container demo.ubuntu012"], 1)
    await rig.back("host2")
    await rig.catch_up()
    assert (rig.containers("host2"), (await rig.status())["state"]) == (set(), "up")


async def test_a_dead_host_is_taken_out_and_what_it_has_goes_when_it_is_back(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    summary = await rig.up(NO_HOST2, remove=True)
    assert summary["behind"]["host2"]["leaving"]
    assert summary["computes_up"] == 1
    assert (await rig.status())["behind"]["host2"]["leaving"]
    with pytest.raises(CaasError, match="move it from host2 to host1"):
        await rig.up(NO_HOST2 + "  ubuntu012: {host: host1, network: cluster, roles: [compute]}\n", remove=True)
    await rig.back("host2")
    await rig.catch_up()
    assert (rig.containers("host2"), set(rig.journal.holders("demo"))) == (set(), {"host1"})
    assert (await rig.status())["state"] == "up"


async def test_a_dead_host_is_given_up_only_where_that_is_said(rig: Rig) -> None:
    await rig.up(TWO)
    with pytest.raises(CaasError, match="--forget host2: it is in the file") as caught:
        await rig.up(TWO, forget=["host2"])
    assert caught.value.code is Code.INVALID
    with pytest.raises(CaasError, match="--forget host2: it answers") as caught:
        await rig.up(NO_HOST2, remove=True, forget=["host2"])
    assert caught.value.code is Code.REFUSED
    await rig.fleet.stop_agent("host2")
    moved = NO_HOST2 + "  ubuntu012: {host: host1, network: cluster, roles: [compute]}\n"
    summary = await rig.up(moved, forget=["host2"])
    assert (summary["behind"], summary["computes_up"], set(rig.journal.holders("demo"))) == ({}, 2, {"host1"})


async def test_down_leaves_what_is_on_a_host_that_is_away_until_it_is_back(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    done = await rig.down()
    assert (done["hosts"], done["behind"]["host2"]["pending"]) == (["host1"], ["remove demo"])
    shown = await rig.status()
    assert (shown["state"], list(shown["hosts"]), shown["behind"]["host2"]["leaving"]) == ("deploying", ["host2"], True)
    await rig.back("host2")
    await rig.catch_up()
    assert (rig.containers("host2"), (await rig.status())["state"]) == (set(), "absent")


async def test_a_second_removal_whose_answer_is_lost_is_no_other_coordinator_s(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    await rig.down()
    await rig.back("host2")

    def die(cluster: str, name: str) -> None:
        raise SystemError("the coordinator dies")

    with monkeypatch.context() as patched:
        patched.setattr(rig.journal, "let_go", die)
        with pytest.raises(SystemError):
            await rig.down()
    assert rig.containers("host2") == set(), "it was not heard"
    assert (await rig.up(TWO))["behind"] == {}
    assert rig.containers("host2") == {"demo.ubuntu012"}


async def test_a_host_that_never_comes_back_is_given_up_by_down(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    await rig.down()
    assert (await rig.down(forget=["host2"]))["behind"] == {}
    assert rig.journal.clusters() == []


async def test_up_after_a_down_makes_what_was_to_be_removed_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    await rig.down()
    assert set((await rig.up(TWO))["behind"]) == {"host2"}
    await rig.back("host2")
    deleted: list[str] = []
    containers = rig.fleet.containers["host2"]
    delete = containers.delete

    def watched(container: Container) -> None:
        deleted.append(container.name)
        delete(container)

    monkeypatch.setattr(containers, "delete", watched)
    await rig.catch_up()
    assert (deleted, rig.containers("host2")) == (["demo.ubuntu012"], {"demo.ubuntu012"})
    assert (await rig.status())["state"] == "up"


async def test_what_another_coordinator_made_is_not_gone_over_by_itself(rig: Rig, tmp_path: Path) -> None:
    await rig.up(ONE)
    await rig.fleet.stop_agent("host2")
    await rig.up(TWO)
    await rig.back("host2")
    other = Rig(rig.fleet, Journal(tmp_path / "another.db"))
    await other.up(TWO + "  ubuntu014: {host: host2, network: cluster, roles: [compute]}\n")
    there = rig.containers("host2")
    with pytest.raises(CaasError, match="newer than all known here") as caught:
        await rig.catch_up()
    assert caught.value.code is Code.STALE
    assert rig.containers("host2") == there
    await rig.up(TWO, remove=True)
    assert any("another coordinator changed it" in event.message for event in rig.events), "who asks for it is told"
    assert rig.containers("host2") == {"demo.ubuntu012"}


async def test_a_newer_generation_is_not_removed_by_itself_either(rig: Rig, tmp_path: Path) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    await rig.down()
    await rig.back("host2")
    other = Rig(rig.fleet, Journal(tmp_path / "another.db"))
    rig.fleet.kept.clear()  # host1 has nothing any more: the other one makes secrets of its own
    with pytest.raises(CaasError, match="secrets"):
        await other.up(TWO)
    await other.down(file=load_bytes(TWO.encode(), file="demo.yaml"))
    await other.up(TWO)
    await other.up(THREE)
    with pytest.raises(CaasError, match="host2 has generation 5 of demo, newer than its removal here") as caught:
        await rig.catch_up()
    assert caught.value.code is Code.STALE
    assert rig.containers("host2") == {"demo.ubuntu012"}
    assert (await rig.down())["behind"] == {}, "who asks for it has it removed"


def test_natbox_with_a_newer_generation_is_another_coordinator_s_too() -> None:
    file = load_bytes(f"natbox: {{address: 10.9.0.9, trunk: eth1, uplink: eth2}}\n{ONE}".encode(), file="demo.yaml")
    probe = natbox_pb2.NatBoxProbeReply(generations={"demo": 4}, removed={"demo": 5, "other": 9})
    found = Survey(cluster="demo", addresses={}, hosts={}, natbox=None, natbox_probe=probe)
    assert find_newer(found, file, 4) == {"natbox": 5}
    assert find_newer(found, file, 5) == {}
    assert find_newer(replace(found, natbox_away="no answer"), file, 4) == {}, "what it answered last is known here"


async def test_a_journal_from_before_answers_were_kept(rig: Rig) -> None:
    await rig.up(TWO)
    rig.journal._db.execute("DELETE FROM seen")
    await rig.fleet.stop_agent("host2")
    summary = await rig.up(THREE)
    assert (summary["behind"]["host2"]["pending"], summary["computes_up"]) == ([], 3)
    assert any("nothing is known of host2: MTU 1500 is assumed" in event.message for event in rig.events)
    await rig.back("host2")
    writes = rig.fleet.containers["host2"].writes
    await rig.catch_up()
    assert (rig.fleet.containers["host2"].writes, (await rig.status())["state"]) == (writes, "up")


AUTO = """\
name: demo
hosts:
  host1: {address: 10.9.0.1}
  host2: {address: 10.9.0.2}
  host3: {address: 10.9.0.3}
networks:
  lan: {subnet: 10.100.1.0/24, overlay: auto}
containers:
  c1: {host: host1, network: lan, roles: [controller, compute]}
  c2: {host: host2, network: lan, roles: [compute]}
"""


async def test_a_pair_keeps_its_way_while_one_of_the_two_is_away(rig: Rig) -> None:
    await rig.fleet.start("host3")
    for kernel in rig.fleet.kernels.values():
        kernel.able = Datapath(vlan="kernel", ipip="kernel", vxlan="kernel")
    await rig.up(AUTO)
    await rig.fleet.stop_agent("host2")
    more = AUTO + "  c3: {host: host1, network: lan, roles: [compute]}\n"
    assert (await rig.up(more))["computes_up"] == 3
    assert [way["method"] for way in (await rig.status())["overlay"]] == ["ipip"]
    new_pair = more + "  c4: {host: host3, network: lan, roles: [compute]}\n"
    with pytest.raises(
        CaasError, match=r"host2 \(10\.9\.0\.2\) is away, so no way between them can be tried"
    ) as caught:
        await rig.up(new_pair)
    assert caught.value.code is Code.UNREACHABLE
    await rig.back("host2")
    assert (await rig.catch_up())["behind"] == {}
    assert (await rig.up(new_pair))["computes_up"] == 4


async def test_a_host_that_goes_away_in_the_middle_is_left_out(rig: Rig) -> None:
    stopping: list[asyncio.Task[None]] = []

    def stop(event: pb.Event) -> None:
        if event.id == "compute/server:ubuntu012" and not stopping:
            stopping.append(asyncio.create_task(rig.fleet.stop_agent("host2")))

    rig.on_event = stop
    summary = await rig.up(TWO)
    await asyncio.gather(*stopping)
    assert "verify/boot:ubuntu011" in summary["steps"]
    assert "verify/boot:ubuntu012" in summary["behind"]["host2"]["pending"]
    assert not [event.title for event in rig.events if event.state == pb.Event.FAILED]
    await rig.back("host2")
    assert (await rig.catch_up())["computes_up"] == 2


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not seen():  # noqa: ASYNC110  what is polled is the journal
            await asyncio.sleep(0.02)


async def test_the_coordinator_does_it_by_itself_also_after_a_restart(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catching_up, "SHORTEST", 0.05)
    monkeypatch.setattr(catching_up, "LONGEST", 0.2)
    await rig.up(ONE)
    await rig.fleet.stop_agent("host2")
    await rig.up(TWO)
    first = CatchingUp(rig.fleet, rig.journal, Claims())  # type: ignore[arg-type]
    first.look("demo")
    await asyncio.sleep(0.5)
    assert rig.journal.unfinished() == ["demo"]
    await first.stop()
    await rig.back("host2")
    second = CatchingUp(rig.fleet, rig.journal, Claims())  # type: ignore[arg-type]
    second.look()
    await until(lambda: not rig.journal.unfinished())
    assert rig.containers("host2") == {"demo.ubuntu012"}
    await rig.fleet.stop_agent("host2")
    await rig.down()
    second.look("demo")
    await rig.back("host2")
    await until(lambda: not rig.journal.clusters())
    assert rig.containers("host2") == set()
    await second.stop()


async def test_a_removal_that_was_cut_off_at_its_very_end_is_ended(rig: Rig) -> None:
    await rig.up(ONE)
    await rig.down()
    rig.journal.save(
        Record(name="demo", state="leaving", generation=2, file_name="", file=b"", remembered="", secrets="")
    )
    assert rig.journal.holders("demo") == {}
    looked_after = CatchingUp(rig.fleet, rig.journal, Claims())  # type: ignore[arg-type]
    looked_after.look()
    await until(lambda: not rig.journal.clusters())
    await looked_after.stop()


async def test_what_keeps_a_host_behind_that_is_back_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "SHORTEST", 0.05)
    await rig.up(ONE)
    await rig.fleet.stop_agent("host2")
    await rig.up(TWO)
    rig.fleet.containers["host2"].fail("start", "demo.ubuntu012")
    await rig.back("host2")
    looked_after = CatchingUp(rig.fleet, rig.journal, Claims())  # type: ignore[arg-type]
    looked_after.look()
    await until(lambda: "simulated" in rig.journal.behind("demo")["host2"].why)
    shown = await rig.status()
    assert (shown["state"], shown["behind"]["host2"]["generation"]) == ("degraded", 1)
    await until(lambda: not rig.journal.unfinished())  # it failed once
    assert rig.containers("host2") == {"demo.ubuntu012"}
    await looked_after.stop()


async def test_what_is_never_seen_to_be_there_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "SHORTEST", 0.05)
    monkeypatch.setattr(catching_up, "LONGEST", 0.1)
    await rig.up(ONE)
    await rig.fleet.stop_agent("host2")
    await rig.up(TWO)
    await rig.back("host2")
    tried: list[str] = []

    async def cut_off(fleet: object, journal: object, name: str, progress: object) -> dict[str, Any]:
        tried.append(name)
        raise CaasError(Code.UNVERIFIED, "host2 did not answer")

    monkeypatch.setattr(bringup, "catch_up", cut_off)
    looked_after = CatchingUp(rig.fleet, rig.journal, Claims())  # type: ignore[arg-type]
    looked_after.look()
    await until(lambda: not rig.journal.unfinished())
    assert len(tried) == 3
    assert (await rig.status())["state"] == "failed"
    await looked_after.stop()
    monkeypatch.undo()
    assert (await rig.up(TWO))["behind"] == {}, "somebody has looked"


async def test_people_go_before_what_is_done_by_itself() -> None:
    claims, began = Claims(), asyncio.Event()
    ended: list[str] = []

    async def work() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("background")

    background = asyncio.create_task(claims.in_background("demo", work()))
    await began.wait()
    await claims.take("demo", "up")
    assert (ended, await background) == (["background"], False)
    assert not await claims.in_background("demo", work())
    with pytest.raises(CaasError, match="another `caas up`") as caught:
        await claims.take("demo", "down")
    assert caught.value.code is Code.BUSY
    claims.release("demo")
    await claims.take("demo", "down")


ROUTED = """\
name: {name}
hosts:
  host1: {{address: 10.9.0.1}}
  host2: {{address: 10.9.0.2}}
networks:
  lan: {{subnet: 10.{number}.1.0/24, overlay: direct}}
containers:
  {name}1: {{host: host1, network: lan, roles: [controller, compute]}}
"""


async def no_nova(_: object) -> dict[str, int]:
    """There is one nova in this fleet, and two clusters."""
    return {"computes_up": 0}


async def test_two_clusters_that_come_at_once_avoid_each_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see that lxcbr0 is free before either has it."""
    monkeypatch.setattr(preparing, "make_cluster_steps", lambda *args, **options: ())
    monkeypatch.setattr(bringup, "nova_status", no_nova)
    looked, choose = asyncio.Barrier(2), preparing.prepare_apart
    conflicts: list[int] = []

    async def at_once(*args: Any) -> Any:
        prepared = await choose(*args)
        conflicts.append(1)
        if len(conflicts) <= 2:
            await looked.wait()
        return prepared

    monkeypatch.setattr(bringup, "prepare_apart", at_once)
    one, other = (ROUTED.format(name=name, number=number) for name, number in (("a", 100), ("b", 101)))
    await asyncio.gather(rig.up(one, "a"), rig.up(other, "b"))
    assert len(conflicts) == 3, "one of the two had to choose again"
    bridges = {one.nic.bridge for one in rig.fleet.containers["host1"].containers.values()}
    assert len(bridges) == 2
    assert "lxcbr0" in bridges
    assert not [event.title for event in rig.events if event.state == pb.Event.FAILED]
