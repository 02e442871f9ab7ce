"""The coordinator's memory: SQLite in WAL mode, synchronous=FULL. Intents are written before acts.

What is here can be rebuilt: files are the users', desired states are at the agents, marks are in the kernel.
Secrets of clusters are here too: the file is 0600.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS clusters (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, generation INTEGER NOT NULL, file_name TEXT NOT NULL,
    file BLOB NOT NULL, remembered TEXT NOT NULL, secrets TEXT NOT NULL, updated REAL NOT NULL,
    surroundings TEXT NOT NULL DEFAULT '{}', allowed TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, run TEXT NOT NULL, step TEXT NOT NULL,
    title TEXT NOT NULL, began REAL NOT NULL, ended REAL, outcome TEXT, message TEXT NOT NULL DEFAULT '',
    hint TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS holders (
    cluster TEXT NOT NULL, name TEXT NOT NULL, address TEXT NOT NULL, leaving INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (cluster, name)
);
CREATE TABLE IF NOT EXISTS seen (
    cluster TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, probe BLOB NOT NULL,
    observed BLOB NOT NULL, desired BLOB NOT NULL, PRIMARY KEY (cluster, name)
);
CREATE TABLE IF NOT EXISTS behind (
    cluster TEXT NOT NULL, name TEXT NOT NULL, since REAL NOT NULL, why TEXT NOT NULL, pending TEXT NOT NULL,
    PRIMARY KEY (cluster, name)
);
CREATE INDEX IF NOT EXISTS entries_of_cluster ON entries (cluster, id);
"""
#: What a journal of an older version may lack, by table and column.
_ADDED = {
    ("clusters", "surroundings"): "TEXT NOT NULL DEFAULT '{}'",
    ("clusters", "allowed"): "TEXT NOT NULL DEFAULT ''",
    ("entries", "hint"): "TEXT NOT NULL DEFAULT ''",
    ("holders", "leaving"): "INTEGER NOT NULL DEFAULT 0",
}
_COLUMNS = "name, state, generation, file_name, file, remembered, secrets, surroundings, allowed"
#: NATBox among the holders: no host can be called so.
NATBOX = ":natbox"
#: Entries kept for each cluster: the last runs, for `caas logs`.
ENTRIES_KEPT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A cluster as the journal knows it.

    `surroundings`: what `file` was read with (coordinator.config.Surroundings), as JSON. `allowed`: the flags that the
    last `up` was given ("remove restart").
    `state`: deploying, then up, degraded or failed; once it was up: changing, then up, degraded or broken; removing,
    then gone or leaving. With degraded and leaving, what is left to do waits for hosts that are away.
    """

    name: str
    state: str
    generation: int
    file_name: str
    file: bytes
    remembered: str
    secrets: str
    surroundings: str = "{}"
    allowed: str = ""

    def __repr__(self) -> str:
        return f"Record({self.name!r}, {self.state!r}, generation {self.generation})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a host (or NATBox) answered when it was last asked about a cluster, and what it was sent after that.

    `generation` is the last one that it is known to have reached, 0 for none. `probe` and `observed` are its replies,
    `desired` a ClusterHost or GatewayTable, as serialized messages; b"" where there is none.
    """

    generation: int
    probe: bytes
    observed: bytes = b""
    desired: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A host that is not as its cluster's file says: `since` when (seconds since 1970), `why`, what is `pending`."""

    since: float
    why: str
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that was begun; `ended` and `outcome` are None where the coordinator died before its end."""

    run: str
    step: str
    title: str
    began: float
    ended: float | None
    outcome: str | None
    message: str
    hint: str = ""


class Journal:
    """One database file. Calls take well under a millisecond and may be made from any thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        # Secrets of clusters that are gone do not stay in free pages.
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)
        for (table, column), kind in _ADDED.items():
            if column not in {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._db.close()

    def clusters(self) -> list[Record]:
        """Every cluster, by name."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM clusters ORDER BY name").fetchall()
        return [_record(row) for row in rows]

    def find(self, name: str) -> Record | None:
        """The cluster *name*, or None."""
        with self._lock:
            row = self._db.execute(f"SELECT {_COLUMNS} FROM clusters WHERE name = ?", (name,)).fetchone()
        return _record(row) if row else None

    def save(self, record: Record) -> None:
        """Write *record* whole, replacing what was known of that cluster."""
        with self._lock:
            self._db.execute(
                f"INSERT OR REPLACE INTO clusters ({_COLUMNS}, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.name,
                    record.state,
                    record.generation,
                    record.file_name,
                    record.file,
                    record.remembered,
                    record.secrets,
                    record.surroundings,
                    record.allowed,
                    time.time(),
                ),
            )

    def forget(self, name: str) -> None:
        """Remove the cluster and its entries."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM clusters WHERE name = ?", (name,))
            self._db.execute("DELETE FROM entries WHERE cluster = ?", (name,))
            for table in ("holders", "seen", "behind"):
                self._db.execute(f"DELETE FROM {table} WHERE cluster = ?", (name,))
            self._db.execute("COMMIT")

    def hold(self, cluster: str, addresses: Mapping[str, str]) -> None:
        """Write that the hosts of *addresses* (name -> address) may have something of *cluster* from now on."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO holders (cluster, name, address) VALUES (?, ?, ?) "
                "ON CONFLICT (cluster, name) DO UPDATE SET address = excluded.address",
                [(cluster, name, address) for name, address in addresses.items()],
            )
            self._db.execute("COMMIT")

    def leave(self, cluster: str, addresses: Mapping[str, str], generation: int) -> None:
        """Write that the hosts of *addresses* are to have nothing of *cluster* from *generation* on, and could not be
        asked to remove it."""
        if not addresses:
            return
        self.hold(cluster, addresses)
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany(
                "UPDATE holders SET leaving = ? WHERE cluster = ? AND name = ?",
                [(generation, cluster, name) for name in addresses],
            )
            self._db.execute("COMMIT")

    def let_go(self, cluster: str, name: str) -> None:
        """Write that host *name* has nothing of *cluster* any more: it was asked to remove all, and did."""
        with self._lock:
            self._db.execute("BEGIN")
            for table in ("holders", "seen", "behind"):
                self._db.execute(f"DELETE FROM {table} WHERE cluster = ? AND name = ?", (cluster, name))
            self._db.execute("COMMIT")

    def holders(self, cluster: str) -> dict[str, str]:
        """Who may have something of *cluster*: name -> address. NATBox is NATBOX."""
        with self._lock:
            rows = self._db.execute("SELECT name, address FROM holders WHERE cluster = ? ORDER BY name", (cluster,))
            return dict(rows.fetchall())

    def clusters_at(self, name: str, addresses: Sequence[str]) -> list[str]:
        """The clusters that may have something on host *name*, or NATBOX, at one of *addresses*."""
        marks = ", ".join("?" for _ in addresses)
        query = f"SELECT DISTINCT cluster FROM holders WHERE name = ? AND address IN ({marks}) ORDER BY cluster"
        with self._lock:
            return [cluster for (cluster,) in self._db.execute(query, (name, *addresses)).fetchall()]

    def addresses_of(self, name: str) -> list[str]:
        """Where host *name*, or NATBOX, is for any cluster."""
        with self._lock:
            found = self._db.execute("SELECT DISTINCT address FROM holders WHERE name = ? ORDER BY address", (name,))
            return [address for (address,) in found.fetchall()]

    def leaving(self, cluster: str) -> dict[str, int]:
        """Those of `holders` that are to have nothing of *cluster* any more: name -> the removal's generation."""
        with self._lock:
            sql = "SELECT name, leaving FROM holders WHERE cluster = ? AND leaving > 0 ORDER BY name"
            return dict(self._db.execute(sql, (cluster,)).fetchall())

    def unfinished(self) -> list[str]:
        """The clusters of which something waits for hosts that are away, by name."""
        with self._lock:
            sql = "SELECT name FROM clusters WHERE state IN ('degraded', 'leaving') ORDER BY name"
            return [name for (name,) in self._db.execute(sql).fetchall()]

    def saw(self, cluster: str, found: Mapping[str, Seen]) -> None:
        """Write what the hosts of *found* answered, and what they are about to be sent."""
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?)",
                [(cluster, name, one.generation, one.probe, one.observed, one.desired) for name, one in found.items()],
            )
            self._db.execute("COMMIT")

    def reached(self, cluster: str, name: str, generation: int) -> None:
        """Write that host *name* has this *generation* of *cluster*."""
        with self._lock:
            self._db.execute(
                "UPDATE seen SET generation = ? WHERE cluster = ? AND name = ?", (generation, cluster, name)
            )

    def seen(self, cluster: str) -> dict[str, Seen]:
        """What hosts answered about *cluster* when they were last asked, by name."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, generation, probe, observed, desired FROM seen WHERE cluster = ?", (cluster,)
            ).fetchall()
        return {
            name: Seen(generation=generation, probe=probe, observed=observed, desired=desired)
            for name, generation, probe, observed, desired in rows
        }

    def save_behind(self, cluster: str, found: Mapping[str, Behind]) -> None:
        """Write who is behind now; who was so before keeps its `since`."""
        known = self.behind(cluster)
        with self._lock:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM behind WHERE cluster = ?", (cluster,))
            self._db.executemany(
                "INSERT INTO behind VALUES (?, ?, ?, ?, ?)",
                [
                    (cluster, name, (known.get(name) or one).since, one.why, json.dumps(one.pending))
                    for name, one in found.items()
                ],
            )
            self._db.execute("COMMIT")

    def behind(self, cluster: str) -> dict[str, Behind]:
        """Who was found to be behind when *cluster* was last worked on, by name."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, since, why, pending FROM behind WHERE cluster = ? ORDER BY name", (cluster,)
            ).fetchall()
        return {
            name: Behind(since=since, why=why, pending=tuple(json.loads(pending))) for name, since, why, pending in rows
        }

    def begin(self, cluster: str, run: str, step: str, title: str) -> int:
        """Write that *step* is about to be done; returns the entry's number for `end`."""
        with self._lock:
            cursor = self._db.execute(
                "INSERT INTO entries (cluster, run, step, title, began) VALUES (?, ?, ?, ?, ?)",
                (cluster, run, step, title, time.time()),
            )
            number = cursor.lastrowid
            assert number is not None
            if number % 100 == 0:
                self._db.execute(
                    "DELETE FROM entries WHERE cluster = ? AND id <= "
                    "(SELECT max(id) FROM entries WHERE cluster = ?) - ?",
                    (cluster, cluster, ENTRIES_KEPT),
                )
        return number

    def end(self, number: int, outcome: str, message: str = "", hint: str = "") -> None:
        """Write how entry *number* ended: done, failed, interrupted."""
        with self._lock:
            self._db.execute(
                "UPDATE entries SET ended = ?, outcome = ?, message = ?, hint = ? WHERE id = ?",
                (time.time(), outcome, message, hint, number),
            )

    def entries(self, cluster: str, *, last: int = 200) -> list[Entry]:
        """The *last* entries of *cluster*, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT run, step, title, began, ended, outcome, message, hint FROM entries WHERE cluster = ? "
                "ORDER BY id DESC LIMIT ?",
                (cluster, last),
            ).fetchall()
        return [
            Entry(
                run=run,
                step=step,
                title=title,
                began=began,
                ended=ended,
                outcome=outcome,
                message=message,
                hint=hint,
            )
            for run, step, title, began, ended, outcome, message, hint in reversed(rows)
        ]


def _record(row: tuple[str, str, int, str, bytes, str, str, str, str]) -> Record:
    name, state, generation, file_name, file, remembered, secrets, surroundings, allowed = row
    return Record(
        name=name,
        state=state,
        generation=generation,
        file_name=file_name,
        file=file,
        remembered=remembered,
        secrets=secrets,
        surroundings=surroundings,
        allowed=allowed,
    )
