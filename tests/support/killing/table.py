"""Kills, what came of each, and the table of them: for people, and to go on with later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

#: The share of all kills that may not be reached: how often a folder has to be asked to go, and which of two processes
#: removes what they share, differs from one run to the next.
MISSED_MOST = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """In the command *verb*, the daemon *where* dies at the *nth* point called *what*; with *power* all its machine."""

    verb: str
    where: str
    what: str
    nth: int
    power: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.where}{'+power' if self.power else ''} at {self.what} #{self.nth}"

    @property
    def kind(self) -> str:
        """The daemon, without its host: a table has a line for each."""
        return f"{self.where.partition('.')[0]}{'+power' if self.power else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a kill: whether it happened, seconds until all was as wanted again, what was not."""

    kill: Kill
    killed: bool
    seconds: float
    residue: str

    @property
    def is_well(self) -> bool:
        return self.killed and not self.residue


def is_whole(rows: Sequence[Row]) -> bool:
    """Whether nothing was left, and all kills but MISSED_MOST of them were reached."""
    return sum(not row.killed for row in rows) <= MISSED_MOST * len(rows) and not any(row.residue for row in rows)


class Table:
    """The rows of a campaign in *path*, as a table, and beside it, to be read again, a line of JSON for each."""

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        self._path = path
        self.rows = list(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    @classmethod
    def go_on(cls, path: Path) -> Table:
        """The one that was begun there, with what went well in it; empty where none was."""
        lines = path.with_suffix(".jsonl")
        return cls(path, (row for row in _read(lines) if row.is_well) if lines.exists() else ())

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._write()

    def without_those_done(self, kills: Iterable[Kill]) -> list[Kill]:
        done = {row.kill for row in self.rows}
        return [kill for kill in kills if kill not in done]

    def _write(self) -> None:
        lines = "".join(f"{json.dumps(asdict(row))}\n" for row in self.rows)
        self._path.with_suffix(".jsonl").write_text(lines)
        self._path.write_text(f"{write_table(self.rows)}\n")


def _read(lines: Path) -> list[Row]:
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    return [Row(**{**one, "kill": Kill(**one["kill"])}) for one in found]


def spread(kills: Iterable[Kill]) -> Iterator[Kill]:
    """One of each daemon in turn, so that a campaign that is cut off has seen some of all."""
    groups: dict[str, list[Kill]] = {}
    for kill in kills:
        groups.setdefault(f"{kill.verb} {kill.where}", []).append(kill)
    yield from (kill for turn in zip_longest(*groups.values()) for kill in turn if kill is not None)


def write_table(rows: Sequence[Row]) -> str:
    """The rows for people, and how many of each kind there were."""
    lines = [f"{'COMMAND':<8} {'WHERE':<14} {'RESUMED':>8}  {'RESIDUE':<8} KILLED BEFORE"]
    for row in rows:
        where = f"{row.kill.where}{'+power' if row.kill.power else ''}"
        residue = "none" if not row.residue else "SOME"
        resumed = f"{row.seconds:.1f} s" if row.killed else "-"
        lines.append(
            f"{row.kill.verb:<8} {where:<14} {resumed:>8}  {residue:<8} "
            f"{row.kill.what} #{row.kill.nth}{'' if row.killed else ' (NOT REACHED)'}"
        )
        lines += [f"           | {line}" for line in row.residue.splitlines()]
    return "\n".join((*lines, "", *_write_kinds(rows), "", f"kills: {_count(rows)}"))


def _write_kinds(rows: Sequence[Row]) -> Iterator[str]:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(f"{row.kill.verb} {row.kill.kind}", []).append(row)
    for kind, of_kind in kinds.items():
        yield f"{kind}: {_count(of_kind)}"


def _count(rows: Sequence[Row]) -> str:
    reached = [row for row in rows if row.killed]
    slowest = max((row.seconds for row in reached), default=0.0)
    return (
        f"{len(reached)}, resumed: {sum(row.is_well for row in reached)}, residue in "
        f"{sum(bool(row.residue) for row in rows)}, not reached: {len(rows) - len(reached)}, slowest: {slowest:.1f} s"
    )
