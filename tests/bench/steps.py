"""Where the time of a `caas up` goes, read from the lines it prints. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DONE = re.compile(r"^  done (?P<title>.*?)  \((?:(?P<minutes>\d+) min )?(?P<seconds>[0-9.]+) s\)")
_PHASE = re.compile(r"^  (?P<phase>look|hosts|nova) +(?:(?P<minutes>\d+) min )?(?P<seconds>[0-9.]+) s$")


def find_steps(text: str) -> list[tuple[float, str]]:
    """(seconds, title) of each step that ended well and took a measurable time, the slowest first."""
    return sorted(((_seconds(found), found["title"]) for found in _matches(_DONE, text)), reverse=True)


def find_phases(text: str) -> list[tuple[float, str]]:
    """(seconds, phase) of the table of phases, in its order."""
    return [(_seconds(found), found["phase"]) for found in _matches(_PHASE, text)]


def describe_up(progress: str, result: str, *, count: int = 6) -> tuple[str, ...]:
    """A line with the phases of *result* and one for each of the slowest steps of *progress*.

    Steps run beside each other: their seconds add up to more than the phase's.
    """
    phases = [f"{phase} {seconds:g} s" for seconds, phase in find_phases(result)]
    steps = [f"{seconds:5.1f} s  {title}" for seconds, title in find_steps(progress)[:count]]
    return (*((", ".join(phases),) if phases else ()), *steps)


def _matches(pattern: re.Pattern[str], text: str) -> Iterable[re.Match[str]]:
    return (found for line in text.splitlines() if (found := pattern.match(line)))


def _seconds(found: re.Match[str]) -> float:
    return 60 * int(found["minutes"] or 0) + float(found["seconds"])
