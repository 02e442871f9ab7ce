"""Apply, undo, restore and destroy over a door that fails on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.kernel.leftovers import NetworkLeftovers
from agent.kernel.natbox_layout import SeenGateway
from natbox.alarms import AlarmLog
from natbox.gatekeeper import Gatekeeper
from natbox.leftovers import Leftovers
from natbox.saved import PreviousValues, SavedTables
from proto.errors import CaasError, Code
from proto.model import Action, GatewayTable, Limits, Plan
from tests.support.fakes import FakeLeftovers
from tests.unit.natbox.fake_door import FakeDoor
from tests.unit.natbox.test_table import gateway, near, table

FIRST = table(gateway(100, near("192.168.10.50")), gateway(101, network="m"))
SECOND = table(gateway(100, near("192.168.10.50"), near("192.168.10.51")), gateway(102, network="k"), generation=2)


@pytest.fixture
def door() -> FakeDoor:
    return FakeDoor()


def keeper(door: FakeDoor, folder: Path) -> Gatekeeper:
    return Gatekeeper(door, SavedTables(folder / "desired"))


def apply(made: Gatekeeper, desired: GatewayTable) -> int:
    return made.apply(desired, on_plan=_ignore, on_done=_ignore).kernel_writes


def destroy(made: Gatekeeper, cluster: str) -> int:
    return made.destroy(cluster, dry_run=False, on_plan=_ignore, on_done=_ignore).kernel_writes


def _ignore(_: object) -> None:
    return None


def test_apply_makes_saves_and_then_has_nothing_to_do(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    plans: list[Plan] = []
    done: list[Action] = []
    made.apply(FIRST, on_plan=plans.append, on_done=done.append)
    assert tuple(done) == plans[0]
    assert made.observe() == [FIRST]
    assert SavedTables(tmp_path / "desired").load() == {"demo": FIRST}
    assert apply(made, FIRST) == 0
    assert made.plan(FIRST) == ()


STEPS = [("change", "demo/n"), ("create", "demo/k"), ("delete", "demo/m")]


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_every_single_failure_leaves_the_table_as_it_was(door: FakeDoor, tmp_path: Path, step: tuple[str, str]) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    before = door.state()
    door.fail(*step)
    with pytest.raises(CaasError, match="simulated"):
        apply(made, SECOND)
    assert door.armed == set(), "the failure was never reached"
    assert door.state() == before
    assert SavedTables(tmp_path / "desired").load() == {"demo": FIRST}
    assert made.generations() == {"demo": 1}
    apply(made, SECOND)
    assert made.observe() == [SECOND]


@pytest.mark.parametrize("step", [("lay", "path"), ("create", "demo/n"), ("create", "demo/m")], ids="-".join)
def test_a_failure_of_the_first_table_leaves_nothing(door: FakeDoor, tmp_path: Path, step: tuple[str, str]) -> None:
    made = keeper(door, tmp_path)
    door.fail(*step)
    with pytest.raises(CaasError, match="simulated"):
        apply(made, FIRST)
    assert door.armed == set()
    assert door.state() == (False, {})
    assert SavedTables(tmp_path / "desired").load() == {}


def test_done_is_what_the_kernel_says(door: FakeDoor, tmp_path: Path) -> None:
    door.deaf = True
    with pytest.raises(CaasError, match="still needs: create gateway demo/n") as caught:
        apply(keeper(door, tmp_path), FIRST)
    assert caught.value.code is Code.UNVERIFIED


def test_a_restart_adopts_and_writes_nothing(door: FakeDoor, tmp_path: Path) -> None:
    apply(keeper(door, tmp_path), FIRST)
    writes = door.writes
    again = keeper(door, tmp_path)
    again.restore()
    assert door.writes == writes
    assert again.generations() == {"demo": 1}


def test_a_restart_makes_what_is_saved_and_removes_what_is_not_desired(door: FakeDoor, tmp_path: Path) -> None:
    apply(keeper(door, tmp_path), FIRST)
    extra = gateway(300, network="extra")
    door.vlans[300] = SeenGateway(gateway=extra, intact=True)
    del door.vlans[101]
    again = keeper(door, tmp_path)
    again.restore()
    assert again.observe() == [FIRST]


def test_after_a_reboot_everything_is_made_again(door: FakeDoor, tmp_path: Path) -> None:
    apply(keeper(door, tmp_path), FIRST)
    fresh = FakeDoor()
    again = keeper(fresh, tmp_path)
    again.restore()
    assert fresh.state() == door.state()


def test_lost_state_is_adopted_from_the_kernel(door: FakeDoor, tmp_path: Path) -> None:
    apply(keeper(door, tmp_path), FIRST)
    writes = door.writes
    again = keeper(door, tmp_path / "empty")
    again.restore()
    assert again.observe() == [FIRST]
    assert door.writes == writes
    with pytest.raises(CaasError, match="VID 100 belongs to demo/n"):
        apply(again, table(gateway(100, cluster="thief"), cluster="thief"))


def test_one_cluster_that_fails_does_not_keep_another_down(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    apply(made, table(gateway(200, cluster="other"), cluster="other"))
    fresh = FakeDoor()
    fresh.fail("create", "demo/n")
    again = keeper(fresh, tmp_path)
    again.restore()
    assert set(fresh.vlans) == {200}
    fresh.laid = False
    again.mend()
    assert set(fresh.vlans) == {100, 101, 200}, "tried again"


def test_destroy_removes_one_and_lifts_the_path_with_the_last(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    apply(made, table(gateway(200, cluster="other"), cluster="other"))
    destroy(made, "demo")
    assert (door.laid, set(door.vlans)) == (True, {200})
    destroy(made, "other")
    assert door.state() == (False, {})
    assert SavedTables(tmp_path / "desired").load() == {}
    assert destroy(made, "other") == 0, "already gone is success"


def test_what_is_applied_after_a_destroy_that_failed_outlives_the_daemon(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    door.fail("delete", "demo/m")
    with pytest.raises(CaasError, match="simulated"):
        destroy(made, "demo")
    apply(made, FIRST)
    again = keeper(door, tmp_path)
    again.restore()
    assert again.observe() == [FIRST]


def test_an_interrupted_destroy_goes_on_after_the_restart(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    door.fail("delete", "demo/m")
    with pytest.raises(CaasError, match="simulated"):
        destroy(made, "demo")
    again = keeper(door, tmp_path)
    again.restore()
    assert door.state() == (False, {})
    assert again.generations() == {}


def test_what_is_older_than_a_removal_and_a_removal_that_is_older_come_too_late(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, SECOND)
    with pytest.raises(CaasError, match="older than generation 2, in force") as caught:
        made.destroy("demo", generation=2, dry_run=False, on_plan=_ignore, on_done=_ignore)
    assert caught.value.code is Code.STALE
    assert made.observe() == [SECOND]
    made.destroy("demo", generation=3, dry_run=False, on_plan=_ignore, on_done=_ignore)
    again = keeper(door, tmp_path)
    assert again.removed() == {"demo": 3}
    for call in (again.check, again.plan, lambda late: apply(again, late)):
        with pytest.raises(CaasError, match="after the removal at generation 3") as caught:
            call(replace(SECOND, generation=3))
        assert caught.value.code is Code.STALE
    assert door.state() == (False, {})
    apply(again, replace(SECOND, generation=4))
    assert set(door.vlans) == {100, 102}


def test_a_removal_that_was_cut_off_is_remembered_when_it_ends(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    door.fail("delete", "demo/m")
    with pytest.raises(CaasError, match="simulated"):
        made.destroy("demo", generation=7, dry_run=False, on_plan=_ignore, on_done=_ignore)
    again = keeper(door, tmp_path)
    again.restore()
    assert again.removed() == {"demo": 7}


def test_counters_of_one_cluster_leave_out_the_trunks(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    apply(made, table(gateway(200, cluster="other"), cluster="other"))
    counted, totals = made.counters("other")
    assert ([(gateway.name, each.vid) for gateway, each in counted], totals.drops) == ([("other/n", 200)], ())
    counted, totals = made.counters()
    assert ([each.vid for _, each in counted], totals.drops) == ([100, 101, 200], (("untagged", 3),))


def test_an_alarm_comes_before_a_limit(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    own = replace(gateway(200, cluster="other"), limits=Limits(connections=200))
    apply(made, table(own, cluster="other"))
    door.open = 79
    assert made.list_alarms() == []
    door.open = 80
    assert made.list_alarms() == ["demo/n has 80 of its 100 connections", "demo/m has 80 of its 100 connections"]
    door.open = 801
    assert made.list_alarms()[0].startswith("NATBox has 801 of the 1000 connections that its kernel holds")
    assert "other/n has 801 of its 200 connections" in made.list_alarms()


def test_an_alarm_is_logged_once_and_again_when_it_came_back(caplog: pytest.LogCaptureFixture) -> None:
    now: list[str] = []
    alarms = AlarmLog(lambda: now)
    for said in (
        ["demo/n has 80 of its 100 connections"],
        ["demo/n has 90 of its 100 connections"],
        [],
        ["demo/n has 81"],
    ):
        now[:] = said
        alarms.tell()
    assert [record.getMessage() for record in caplog.records] == [
        "near its limit: demo/n has 80 of its 100 connections",
        "near its limit: demo/n has 81",
    ]


def test_what_a_vlan_lost_comes_back_and_nothing_else_is_written(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    door.vlans[100] = SeenGateway(gateway=door.vlans[100].gateway, intact=False)
    before = list(door.calls)
    made.mend()
    assert door.calls == before, "looks at the path alone"
    made.mend_all()
    assert door.calls == [*before, "change demo/n"]
    assert door.vlans[100].intact
    made.mend_all()
    assert door.calls == [*before, "change demo/n"]


def test_what_another_clusters_apply_had_to_lay_again_is_whole_for_all(door: FakeDoor, tmp_path: Path) -> None:
    made = keeper(door, tmp_path)
    apply(made, FIRST)
    door.lift_path()  # `nft flush ruleset`, and nobody has looked yet
    apply(made, table(gateway(200, cluster="other"), cluster="other"))
    assert set(door.vlans) == {100, 101, 200}


def test_a_damaged_file_is_named_and_not_skipped(tmp_path: Path) -> None:
    SavedTables(tmp_path).save(FIRST)
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(CaasError, match=r"demo\.json: not a saved state"):
        SavedTables(tmp_path).load()


def test_previous_values_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "previous.json"
    PreviousValues(path).put("ipv4/conf/eth1/forwarding", "0")
    again = PreviousValues(path)
    assert again.get("ipv4/conf/eth1/forwarding") == "0"
    assert again.get("other") is None
    again.forget("other")
    again.forget("ipv4/conf/eth1/forwarding")
    assert not path.exists()


def test_after_a_removal_it_is_looked_and_what_is_left_is_told(
    door: FakeDoor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looks = FakeLeftovers()
    made = Gatekeeper(door, SavedTables(tmp_path / "desired"), looks)
    blue = replace(FIRST, cluster="blue", gateways=(replace(gateway(200, network="b"), cluster="blue"),))
    for one in (FIRST, blue):
        apply(made, one)
    assert made.destroy("demo", dry_run=False, on_plan=_ignore, on_done=_ignore).left == ()
    looks.left = ("nft table ip caas_natbox",)
    assert made.destroy("blue", dry_run=False, on_plan=_ignore, on_done=_ignore).left == looks.left
    assert looks.calls == ["find demo", "find blue last"]
    assert "blue: left after its removal: nft table ip caas_natbox" in caplog.text


def test_what_is_saved_and_what_was_set_must_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkLeftovers, "find_of_natbox", lambda self: ["nft table ip caas_natbox"])
    looks = Leftovers(tmp_path)
    assert looks.find("demo", is_last=False) == ()
    (tmp_path / "desired").mkdir()
    (tmp_path / "desired/demo.json").touch()
    (tmp_path / "previous.json").touch()
    assert looks.find("demo", is_last=False) == (f"file {tmp_path}/desired/demo.json",)
    assert looks.find("demo", is_last=True) == (
        f"file {tmp_path}/desired/demo.json",
        f"settings as they were before, in {tmp_path}/previous.json",
        "nft table ip caas_natbox",
    )
