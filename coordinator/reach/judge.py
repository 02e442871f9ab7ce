"""What the reports of all containers come to, pair by pair. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One direction. `cause` is "" where all is well. `seconds` is the round trip, None where there was none."""

    source: str
    target: str
    reached: bool
    full_mtu: bool
    cause: str
    seconds: float | None

    @property
    def ok(self) -> bool:
        return not self.cause

    def to_dict(self) -> dict[str, Any]:
        """As `caas verify --json` shows it."""
        found: dict[str, Any] = {"from": self.source, "to": self.target, "ok": self.ok}
        found |= {"reached": self.reached, "mtu": self.full_mtu, "seconds": self.seconds}
        return found | ({"cause": self.cause} if self.cause else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one container said: `answered` by target's address, `heard` asker's address -> source it came from."""

    name: str
    address: str
    targets: Mapping[str, str]
    answered: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str]
    heard: Mapping[str, str]
    twins: Sequence[str]
    failure: str = ""


def judge(reports: Mapping[str, Report]) -> tuple[Pair, ...]:
    """Every pair that was to be tried, with why it is not well."""
    by_address = {report.address: report for report in reports.values()}
    return tuple(
        _judge_pair(report, name, address, by_address.get(address))
        for report in reports.values()
        for name, address in report.targets.items()
    )


def _judge_pair(report: Report, name: str, address: str, target: Report | None) -> Pair:
    answer = report.answered.get(address, {})
    reached, full = bool(answer.get("reached")), bool(answer.get("full"))
    return Pair(
        source=report.name,
        target=name,
        reached=reached,
        full_mtu=full,
        seconds=answer.get("seconds"),
        cause=_cause(report, address, target, reached=reached, full=full),
    )


def _cause(report: Report, address: str, target: Report | None, *, reached: bool, full: bool) -> str:
    if report.failure:
        return report.failure
    if target is not None and target.twins:
        return f"duplicate address: {target.address} is also {', '.join(target.twins)}'s"
    if not reached and address in report.refused:
        return f"cannot be sent: {report.refused[address]}"
    if not reached:
        heard = target is not None and report.address in target.heard
        return "the answer does not come back" if heard else "no answer"
    if not full:
        return "MTU hole: small packets pass, full ones do not"
    if target is not None and (seen := target.heard.get(report.address)) not in (None, report.address):
        return f"wrong source: it arrives as {seen}"
    return ""


def make_matrix(pairs: Sequence[Mapping[str, Any]]) -> str:
    """A matrix for people, of pairs as `Pair.to_dict` gives them: rows ask, columns answer; `.` well, `x` not."""
    names = list(dict.fromkeys([pair["from"] for pair in pairs] + [pair["to"] for pair in pairs]))
    known = {(pair["from"], pair["to"]): bool(pair["ok"]) for pair in pairs}
    width = max((len(name) for name in names), default=0)
    lines = [" " * (width + 5) + "".join(f"{number:>3}" for number in range(1, len(names) + 1))]
    for number, source in enumerate(names, 1):
        cells = (known.get((source, target)) for target in names)
        marks = "".join("   " if well is None else "  ." if well else "  x" for well in cells)
        lines.append(f"{number:>3}  {source:<{width}}{marks}".rstrip())
    return "\n".join(lines)
