"""Figures: what was measured, what against, and whether the goal is met. Pure.

A run of a figure that has a peer is a pair (ours, the peer's), measured one right after the other: on a noisy machine
only their ratio can be believed. A figure that could not be measured has neither value nor verdict, and says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Pair = tuple[float, float]
DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Bounds, each inclusive; None: none. *most* is of the value, in the figure's unit, the others of the ratio."""

    most: float | None = None
    ratio_most: float | None = None
    ratio_least: float | None = None

    def is_met(self, value: float, ratio: float | None) -> bool:
        """Whether all bounds hold. ValueError where there is none, or one of a ratio that there is not."""
        bounds = (self.most, self.ratio_most, self.ratio_least)
        if all(bound is None for bound in bounds):
            raise ValueError("a goal without a bound is always met")
        if ratio is None and bounds[1:] != (None, None):
            raise ValueError("a goal for a ratio, and no ratio")
        return (
            (self.most is None or value <= self.most)
            and (ratio is None or self.ratio_most is None or ratio <= self.ratio_most)
            and (ratio is None or self.ratio_least is None or ratio >= self.ratio_least)
        )

    def text(self, unit: str) -> str:
        """For people: "ratio <= 1.5, <= 20 ms"."""
        parts = []
        if self.ratio_most is not None:
            parts.append(f"ratio <= {self.ratio_most:g}")
        if self.ratio_least is not None:
            parts.append(f"ratio >= {self.ratio_least:g}")
        if self.most is not None:
            parts.append(f"<= {self.most:g} {unit}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. *detail* is for people only: where the time goes, what else was seen. *lacks* is the kind
    of device that it needs and this kernel does not make ("vlan", "ipip"); "" where that is not why it has no value.
    """

    name: str
    value: float | None
    unit: str
    against: str
    ratio: float | None
    goal: str
    met: bool | None
    runs: tuple[float | Pair, ...]
    detail: tuple[str, ...] = ()
    lacks: str = ""

    def line(self) -> str:
        """All of it in one line, for read_figure."""
        return json.dumps(asdict(self))

    def document(self) -> dict[str, Any]:
        """What bench.json has of it."""
        return {
            "value": _rounded(self.value),
            "unit": self.unit,
            "against": self.against,
            "ratio": _rounded(self.ratio),
            "goal": self.goal,
            "met": self.met,
            "runs": [_rounded(run) if isinstance(run, float | int) else list(map(_rounded, run)) for run in self.runs],
        }


def make_limited(
    name: str, runs: Sequence[float], *, unit: str, limit: float, source: str, detail: Iterable[str] = ()
) -> Figure:
    """The median of *runs* against *limit*, that *source* sets; the ratio is of the two. ValueError without a run."""
    _check(name, runs)
    value, goal = median(runs), Goal(most=limit)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        against=f"{source}: {limit:g} {unit}",
        ratio=value / limit,
        goal=goal.text(unit),
        met=goal.is_met(value, None),
        runs=tuple(runs),
        detail=tuple(detail),
    )


def make_paired(
    name: str, runs: Sequence[Pair], *, unit: str, peer: str, goal: Goal | None, detail: Iterable[str] = ()
) -> Figure:
    """The median of ours, and the median of the pairs' ratios ours / peer's; no verdict without a *goal*. ValueError
    without a run.
    """
    _check(name, runs)
    value, theirs = median(ours for ours, _ in runs), median(other for _, other in runs)
    ratio = median(ours / other for ours, other in runs)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        against=f"{peer}: {_plain(theirs)} {unit}",
        ratio=ratio,
        goal=goal.text(unit) if goal else "",
        met=goal.is_met(value, ratio) if goal else None,
        runs=tuple(runs),
        detail=tuple(detail),
    )


def make_unmeasured(name: str, *, unit: str, goal: Goal | None, why: str, lacks: str = "") -> Figure:
    """A figure that this machine cannot give, with the reason in place of what it stands against."""
    return Figure(
        name=name,
        value=None,
        unit=unit,
        against=f"not measured: {why}",
        ratio=None,
        goal=goal.text(unit) if goal else "",
        met=None,
        runs=(),
        lacks=lacks,
    )


def read_figure(line: str) -> Figure:
    """What Figure.line wrote. ValueError, TypeError or KeyError where it did not."""
    found = json.loads(line)
    runs = tuple(tuple(run) if isinstance(run, list) else run for run in found.pop("runs"))
    return Figure(**found | {"runs": runs, "detail": tuple(found.pop("detail"))})


def make_document(figures: Iterable[Figure]) -> str:
    """The text of bench.json."""
    return json.dumps({figure.name: figure.document() for figure in figures}, indent=2) + "\n"


def make_table(figures: Sequence[Figure]) -> str:
    """For people: a line for each figure, and below the lines what is to be said of some."""
    head = ("FIGURE", "VALUE", "", "RATIO", "GOAL", "MET", "AGAINST")
    verdicts = {True: "yes", False: "NO", None: "-"}
    rows = [head]
    for one in figures:
        numbers = (_plain(one.value), one.unit, _plain(one.ratio))
        rows.append((one.name, *numbers, one.goal, verdicts[one.met], one.against))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        for row in rows
    ]
    for one in figures:
        if one.detail:
            lines += ["", f"{one.name}:", *(f"  {line}" for line in one.detail)]
    return "\n".join(lines) + "\n"


def _check(name: str, runs: Sequence[object]) -> None:
    if not runs:
        raise ValueError(f"{name}: no run")


def _rounded(value: float | None) -> float | None:
    """To *DIGITS* significant digits: the rest is noise."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _plain(value: float | None) -> str:
    """Like 0.9713, 16.24, 227400; "-" for none."""
    return "-" if value is None else f"{float(f'{value:.{DIGITS}g}'):.10g}"
