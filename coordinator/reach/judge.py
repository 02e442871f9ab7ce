"""What the reports of all hosts come to, pair by pair: how each fares, and for what fails the cause. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.reach.report import HostReport, Report
from proto.model import Cause


class Symptom(enum.Enum):
    """How a pair fares, as far as its two ends can tell."""

    WELL = "well"
    UNASKED = "it could not be asked"
    DUPLICATE = "its address is another's, too"
    REFUSED = "it cannot be sent"
    SILENT = "no answer"
    UNANSWERED = "the answer does not come back"
    NARROW = "small packets pass, full ones do not"
    WRONG_SOURCE = "it arrives with another source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a pair fails: *at* is the host where, "" where that is not known."""

    cause: Cause
    text: str
    hint: str = ""
    at: str = ""

    def __str__(self) -> str:
        return self.text if self.cause is Cause.UNKNOWN else f"{self.cause.value}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One direction. `verdict` is None where all is well. `seconds` is the round trip, None where there was none."""

    source: str
    target: str
    reached: bool
    full_mtu: bool
    symptom: Symptom
    seconds: float | None
    verdict: Verdict | None = None

    @property
    def ok(self) -> bool:
        return self.symptom is Symptom.WELL

    @property
    def cause(self) -> str:
        """A sentence that begins with the cause's word; "" where all is well."""
        if self.ok:
            return ""
        return str(self.verdict) if self.verdict else self.symptom.value

    def to_dict(self) -> dict[str, Any]:
        """As `caas verify --json` shows it (docs/verify.md)."""
        found: dict[str, Any] = {"from": self.source, "to": self.target, "ok": self.ok}
        found |= {"reached": self.reached, "mtu": self.full_mtu, "seconds": self.seconds}
        if self.ok:
            return found
        verdict = self.verdict or Verdict(cause=Cause.UNKNOWN, text=self.symptom.value)
        return found | {"cause": self.cause, "kind": verdict.cause.value, "at": verdict.at, "hint": verdict.hint}


def judge(hosts: Mapping[str, HostReport]) -> tuple[Pair, ...]:
    """Every pair that was to be tried, without causes."""
    reports = {name: report for host in hosts.values() for name, report in host.reports.items()}
    return tuple(
        _judge_pair(report, name, address, reports.get(name))
        for report in reports.values()
        for name, address in report.target.asks.items()
    )


def _judge_pair(report: Report, name: str, address: str, target: Report | None) -> Pair:
    answer = report.answered.get(address, {})
    reached, full = bool(answer.get("reached")), bool(answer.get("full"))
    return Pair(
        source=report.target.name,
        target=name,
        # The small one alone may have been lost.
        reached=reached or full,
        full_mtu=full,
        seconds=answer.get("seconds"),
        symptom=_symptom(report, address, target, reached=reached or full, full=full),
    )


def _symptom(report: Report, address: str, target: Report | None, *, reached: bool, full: bool) -> Symptom:
    heard: Mapping[str, Any] = target.heard.get(report.target.address, {}) if target else {}
    if report.failure:
        return Symptom.UNASKED
    if target is not None and target.twins:
        return Symptom.DUPLICATE
    if not reached and report.refused.get(address) not in (None, "EHOSTUNREACH"):
        return Symptom.REFUSED
    if not reached:
        return Symptom.UNANSWERED if heard else Symptom.SILENT
    if not full:
        return Symptom.NARROW
    if heard and heard["source"] != report.target.address:
        return Symptom.WRONG_SOURCE
    return Symptom.WELL


def list_problems(pairs: Sequence[Pair]) -> list[str]:
    """What fails, a line for each cause: the first pairs by name, the others by number."""
    by_cause: dict[str, list[Pair]] = {}
    for pair in pairs:
        if not pair.ok:
            by_cause.setdefault(pair.cause, []).append(pair)
    lines = []
    for cause, failed in by_cause.items():
        names = ", ".join(f"{pair.source} to {pair.target}" for pair in failed[:NAMED])
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        hint = failed[0].verdict.hint if failed[0].verdict else ""
        lines.append(f"{names}{more}: {cause}{f' ({hint})' if hint else ''}")
    return lines


#: So many pairs of one cause are named for people.
NAMED = 3
