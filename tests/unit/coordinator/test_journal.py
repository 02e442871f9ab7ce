"""The journal: what was written is there after a crash; nobody else may read it."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

from coordinator.journal import Journal, Record

RECORD = Record(
    name="demo", state="up", generation=3, file_name="f.yaml", file=b"name: demo", remembered="{}", secrets="s3cret"
)


def test_a_record_survives_a_process_that_never_closed_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state" / "journal.db")
    journal.save(RECORD)
    again = Journal(tmp_path / "state" / "journal.db")
    assert again.find("demo") == RECORD
    assert again.clusters() == [RECORD]
    again.forget("demo")
    assert journal.find("demo") is None


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.db"
    Journal(path).save(RECORD)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    assert "s3cret" not in repr(RECORD)


def test_an_intent_without_an_end_shows_that_we_died(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.end(journal.begin("demo", "r1", "a", "A"), "done")
    journal.begin("demo", "r1", "b", "B")
    assert [(entry.step, entry.outcome) for entry in journal.entries("demo")] == [("a", "done"), ("b", None)]


def test_old_entries_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    for number in range(2300):
        journal.begin("demo", "r", str(number), "")
    steps = [entry.step for entry in journal.entries("demo", last=5000)]
    assert steps[-1] == "2299"
    assert len(steps) <= 2100


def test_a_journal_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE clusters (name TEXT PRIMARY KEY, state TEXT NOT NULL, generation INTEGER NOT NULL,"
            " file_name TEXT NOT NULL, file BLOB NOT NULL, remembered TEXT NOT NULL, secrets TEXT NOT NULL,"
            " updated REAL NOT NULL)"
        )
        old.execute(
            "INSERT INTO clusters VALUES ('demo', 'up', 3, 'f.yaml', CAST('name: demo' AS BLOB), '{}', 's3cret', 1.0)"
        )
        old.execute(
            "CREATE TABLE entries (id INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, run TEXT NOT NULL,"
            " step TEXT NOT NULL, title TEXT NOT NULL, began REAL NOT NULL, ended REAL, outcome TEXT,"
            " message TEXT NOT NULL DEFAULT '')"
        )
        old.execute("INSERT INTO entries VALUES (7, 'demo', 'r', 's', 't', 1.0, 2.0, 'failed', 'why')")
    old.close()
    journal = Journal(path)
    assert journal.find("demo") == RECORD
    journal.save(replace(RECORD, surroundings='{"localhost": null}'))
    again = Journal(path).find("demo")
    assert again is not None
    journal.end(7, "failed", "why", "mend it")
    assert [(entry.message, entry.hint) for entry in journal.entries("demo")] == [("why", "mend it")]
    assert again.surroundings == '{"localhost": null}'
