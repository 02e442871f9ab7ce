"""The matrix of `caas verify` for people: containers while there are few, else hosts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: More names than this do not fit a line: then hosts stand for their containers.
NAMES_MAX = 16
Shown = Mapping[str, Any]


def make_matrix(pairs: Sequence[Shown], hosts: Mapping[str, str] | None = None) -> str:
    """Of pairs as `Pair.to_dict` gives them: rows ask, columns answer; `.` well, `x` not.

    *hosts* has the host of each container: with more than NAMES_MAX names there is a row for each host instead, with
    how many pairs are well of how many.
    """
    names = list(dict.fromkeys([pair["from"] for pair in pairs] + [pair["to"] for pair in pairs]))
    if hosts and len(names) > NAMES_MAX:
        return _make_host_matrix(pairs, hosts)
    known = {(pair["from"], pair["to"]): bool(pair["ok"]) for pair in pairs}
    width = max((len(name) for name in names), default=0)
    lines = [" " * (width + 5) + "".join(f"{number:>3}" for number in range(1, len(names) + 1))]
    for number, source in enumerate(names, 1):
        cells = (known.get((source, target)) for target in names)
        marks = "".join("   " if well is None else "  ." if well else "  x" for well in cells)
        lines.append(f"{number:>3}  {source:<{width}}{marks}".rstrip())
    return "\n".join(lines)


def _make_host_matrix(pairs: Sequence[Shown], hosts: Mapping[str, str]) -> str:
    counts: dict[tuple[str, str], list[int]] = {}
    for pair in pairs:
        key = (hosts.get(pair["from"], pair["from"]), hosts.get(pair["to"], pair["to"]))
        count = counts.setdefault(key, [0, 0])
        count[0] += bool(pair["ok"])
        count[1] += 1
    rows = [("FROM", "TO", "PAIRS", "WELL")]
    rows += [
        (source, target, str(whole), str(well) if well == whole else f"{well}  x")
        for (source, target), (well, whole) in counts.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{source:<{widths[0]}}  {target:<{widths[1]}}  {whole:>{widths[2]}}  {well}"
        for source, target, whole, well in rows
    )
