"""What is wrong with a cluster file: everything, each with its place, what was found and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from proto.errors import CaasError, Code

#: More than this many problems are counted, not shown: a file of another kind has one in every line.
SHOWN_MAX = 100


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and column of a file, both from 1; line 0 stands for the file as a whole."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake. `path` is the keys that lead to it ("containers.ubuntu011.address"), "" for the whole file."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class ConfigError(CaasError):
    """INVALID, or REFUSED, with every problem of one file; the message prints them all."""

    def __init__(self, problems: Sequence[Problem], *, code: Code = Code.INVALID) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(code, str(self.problems[0]), hint=self.problems[0].hint)
        else:
            super().__init__(code, _list_all(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.problems, self.code))


def _rebuild(problems: Sequence[Problem], code: Code) -> ConfigError:
    return ConfigError(problems, code=code)


def _list_all(problems: Sequence[Problem]) -> str:
    lines = [f"{problems[0].file}: {len(problems)} problems"]
    for problem in problems[:SHOWN_MAX]:
        lines.append(f"  {problem}")
        if problem.hint:
            lines.append(f"    hint: {problem.hint}")
    if len(problems) > SHOWN_MAX:
        lines.append(f"  … and {len(problems) - SHOWN_MAX} more")
    return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """Collects the problems of one file while it is read."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, path: str, message: str, *, hint: str = "") -> None:
        """One more problem, at *place*, with the keys that lead there."""
        self.problems.append(
            Problem(file=self.file, line=place.line, column=place.column, path=path, message=message, hint=hint)
        )

    def check(self, *, code: Code = Code.INVALID) -> None:
        """Raise a ConfigError with everything so far, in the file's order; return where there is nothing."""
        if self.problems:
            unique = dict.fromkeys(self.problems)
            raise ConfigError(sorted(unique, key=lambda problem: (problem.line, problem.column)), code=code)


def nearest(found: str, known: Iterable[str]) -> str:
    """The one of *known* that is most like *found*, "" where none is near."""
    near = difflib.get_close_matches(found.lower(), sorted(set(known)), n=1, cutoff=0.55)
    return near[0] if near else ""


def suggest(found: str, known: Iterable[str]) -> str:
    """A hint for a name that is not one of *known*: the nearest one, or all of them where none is near."""
    names = sorted(set(known))
    if near := nearest(found, names):
        return f"did you mean {near!r}?"
    if not names:
        return "there is none"
    return f"known here: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
