"""The points at which daemons of a lab are killed: counted, called by what is done, reached once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.demonstration import ROOT
from tests.support.killing.points import Points
from tests.support.killing.table import Kill, Row, Table, is_whole, spread, write_table

#: Writes three files below the folder given, and one beside it.
WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.support.killing.points import Points, watch_files, watch_journal, watch_kernel
folder = Path(sys.argv[1])
points = Points(folder / "points", "one")
watch_files(points, (folder / "state",))
watch_journal(points)
watch_kernel(points)
(folder / "beside").write_text("no point")
from proto.disk import write_whole
for name in "abc":
    write_whole(folder / "state" / name, name)
from coordinator.journal import Journal
journal = Journal(folder / "state" / "journal.db")
journal.end(journal.begin("demo", "run", "nova/api:c1", "title"), "done")
from agent.kernel.tally import Tally
Tally().add()
print("ended")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("points", "state"):
        (tmp_path / name).mkdir()
    return tmp_path


def play(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def reached(folder: Path) -> list[str]:
    return (folder / "points/one.reached").read_text().splitlines()


def test_nothing_counts_until_it_is_asked_for(folder: Path) -> None:
    assert play(folder).stdout == "ended\n"
    assert not (folder / "points/one.reached").exists()


def test_every_kind_of_write_is_a_point(folder: Path) -> None:
    (folder / "points/one.armed").write_text("[]")
    assert play(folder).stdout == "ended\n"
    points = reached(folder)
    assert [point for point in points if point.startswith("os.rename")] == [
        f"os.rename state/.{name}.tmp" for name in "abc"
    ]
    assert points[-3:-1] == ["journal: begin nova/api:c1", "journal: end nova/api:c1 done"]
    assert not any("beside" in point for point in points)


def test_it_is_killed_before_the_write_and_no_second_time(folder: Path) -> None:
    (folder / "points/one.armed").write_text('[{"what": "os.rename state/.b.tmp", "nth": 1}]')
    assert play(folder).returncode == -signal.SIGKILL
    assert sorted(os.listdir(folder / "state")) == [".b.tmp", "a"]
    assert (folder / "points/one.killed").exists()
    assert play(folder).stdout == "ended\n"
    assert {"a", "b", "c"} <= set(os.listdir(folder / "state"))


def test_the_nth_of_those_with_one_name(folder: Path) -> None:
    points = Points(folder / "points", "one")
    (folder / "points/one.armed").write_text('[{"what": "again", "nth": 3, "tell": true}]')
    for _ in range(2):
        points.reach("again")
    assert not (folder / "points/one.killed").exists()
    points.reach("again")
    assert (folder / "points/one.killed").exists()


def test_the_first_of_several_that_is_reached(folder: Path) -> None:
    points = Points(folder / "points", "one")
    wanted = [{"what": what, "nth": 1, "tell": True} for what in ("late", "early")]
    (folder / "points/one.armed").write_text(json.dumps(wanted))
    for what in ("other", "early", "late"):
        points.reach(what)
    assert json.loads((folder / "points/one.killed").read_text())["what"] == "early"
    assert reached(folder) == ["other", "early"]


def test_a_point_has_the_same_name_in_every_lab(tmp_path: Path) -> None:
    """And a cgroup in every hierarchy: one that was cut off goes on in another lab."""
    script = (
        "import os, sys; from pathlib import Path; from tests.support.killing.points import Points, watch_files\n"
        "folder = Path(sys.argv[1]); points = Points(folder, 'one')\n"
        "watch_files(points, (folder / 'labs', folder / 'lock', Path('/sys/fs/cgroup')))\n"
        "for each in sys.argv[2:]: sys.audit('os.rmdir', each, -1)\n"
    )
    (tmp_path / "one.armed").write_text("[]")
    gone = [f"{tmp_path}/lock/labs/kill7/machines", "/sys/fs/cgroup/cpu/caas-0123456789ab/killed.r1"]
    subprocess.run([sys.executable, "-c", script, str(tmp_path), *gone], cwd=ROOT, check=True)
    assert (tmp_path / "one.reached").read_text().splitlines() == [
        "os.rmdir lock/labs/LAB/machines",
        "os.rmdir cgroup/caas/killed.r1",
    ]


def test_sqlite_is_watched_only_where_it_is_asked_for() -> None:
    assert sqlite3.connect.__module__ in ("_sqlite3", "sqlite3", None)


KILL = Kill(verb="up", where="agent.host1", what="os.rename desired/demo.json", nth=2, power=True)
ROWS = (
    Row(kill=KILL, killed=True, seconds=2.25, residue=""),
    Row(kill=replace(KILL, nth=3), killed=True, seconds=3.0, residue="links: + host1: lxcbr100"),
    Row(kill=replace(KILL, verb="down", power=False), killed=False, seconds=0.1, residue=""),
)


def test_the_table_counts_and_shows_what_was_left() -> None:
    table = write_table(ROWS)
    assert "up       agent.host1+power    2.2 s  none     os.rename desired/demo.json #2\n" in table
    assert "| links: + host1: lxcbr100" in table
    assert "(NOT REACHED)" in table
    assert "\nup agent+power: 2, resumed: 1, residue in 1, not reached: 0, slowest: 3.0 s\n" in table
    assert "\ndown agent: 0, resumed: 0, residue in 0, not reached: 1, slowest: 0.0 s\n" in table
    assert table.endswith("kills: 2, resumed: 1, residue in 1, not reached: 1, slowest: 3.0 s")
    assert [row.is_well for row in ROWS] == [True, False, False]


@pytest.mark.parametrize(
    ("well", "bad", "missed", "whole"), [(49, 0, 1, True), (48, 0, 2, False), (49, 1, 0, False), (1, 0, 0, True)]
)
def test_a_campaign_is_whole_where_nearly_all_was_reached_and_nothing_left(
    well: int, bad: int, missed: int, whole: bool
) -> None:
    one, left, unreached = ROWS
    assert is_whole([one] * well + [left] * bad + [unreached] * missed) is whole


def test_a_campaign_goes_on_with_what_did_not_go_well_yet(tmp_path: Path) -> None:
    table = Table(tmp_path / "build/kills.txt")
    for row in ROWS:
        table.add(row)
    kills = [row.kill for row in ROWS]
    assert table.without_those_done([*kills, replace(KILL, nth=4)]) == [replace(KILL, nth=4)]
    later = Table.go_on(tmp_path / "build/kills.txt")
    assert later.rows == [ROWS[0]]
    assert later.without_those_done(kills) == kills[1:]
    assert (tmp_path / "build/kills.txt").read_text() == f"{write_table(ROWS[:1])}\n"
    assert Table(tmp_path / "build/kills.txt").rows == Table.go_on(tmp_path / "build/kills.txt").rows == []


def test_kills_of_all_daemons_come_from_the_beginning() -> None:
    many = [replace(KILL, where="natbox", nth=nth) for nth in range(4)]
    few = [replace(KILL, where="coordinator", nth=nth) for nth in range(2)]
    mixed = list(spread([*many, *few]))
    assert mixed == [many[0], few[0], many[1], few[1], many[2], many[3]]
