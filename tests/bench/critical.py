"""The critical path of a run, from the coordinator's journal: what kept the end waiting, and what that waited for.

Pure but for read_run. A step begins when the last one that it needs has ended, so before a step stands the one that
ended last before it began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

#: A step that another one waited for may be written down as ended a little after that has begun (seconds).
SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that was done, in seconds of the same clock."""

    title: str
    began: float
    ended: float


def find_path(spans: Sequence[Span]) -> list[Span]:
    """From the first to the one that ended last; empty where there are none."""
    path: list[Span] = []
    left = list(spans)
    while left:
        last = max(left, key=lambda span: span.ended)
        path.append(last)
        left = [span for span in left if span.ended <= last.began + SLACK and span.began < last.began]
    return path[::-1]


def describe_path(spans: Sequence[Span]) -> tuple[str, ...]:
    """A line for each span of the critical path: when it began, how long it took."""
    path = find_path(spans)
    return tuple(
        f"{span.began - path[0].began:6.1f} s  +{span.ended - span.began:5.1f} s  {span.title}" for span in path
    )


def read_run(journal: Path, cluster: str) -> list[Span]:
    """What ended well in the last run of *cluster*, from the coordinator's own file, which is only read."""
    query = """
        SELECT title, began, ended FROM entries WHERE cluster = :cluster AND outcome = 'done' AND ended IS NOT NULL
        AND run = (SELECT run FROM entries WHERE cluster = :cluster ORDER BY id DESC LIMIT 1)
    """
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        rows = database.execute(query, {"cluster": cluster}).fetchall()
    return [Span(title=title, began=began, ended=ended) for title, began, ended in rows]
