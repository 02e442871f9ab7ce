"""What should be seen in a container, and one look at each container for all the steps that ask.

Steps say what they want to see before anyone looks; then one look at each container answers them all: its host's
agent looks from outside, and where an API or a database is to be asked, a program in the container does. After a step
has run, what was seen in its containers is forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from coordinator.steps import Shell
from proto.errors import CaasError, Code

READY = "/etc/caas/ready/"
PYTHON = ("/usr/bin/python3", "-I", "-S", "-")
PROBE_SECONDS = 30.0
#: What a probe can look for: see inside/probe.py.
KINDS = ("files", "units", "http", "ports", "rows")


def make_program(name: str, argument: object) -> bytes:
    """The source of `inside/NAME.py` with a call of its main(): goes to python3's standard input."""
    source = resources.files("coordinator.nova.inside").joinpath(f"{name}.py").read_text(encoding="utf-8")
    return f"{source}\n\nimport json as _json\nmain(_json.loads({json.dumps(argument)!r}))\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it should be. Its content may hold secrets: it is in no repr, and others never read it."""

    path: str
    content: str = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: str = "0640"
    folder_mode: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    def to_dict(self) -> dict[str, str]:
        """For inside/apply.py."""
        return {
            "path": self.path,
            "content": self.content,
            "owner": self.owner,
            "group": self.group,
            "mode": self.mode,
            "folder_mode": self.folder_mode,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit that should run, having read *files* as they are wanted."""

    name: str
    files: tuple[File, ...]

    @property
    def ready(self) -> File:
        """The file that lets the unit start; it lists what the unit reads (see the image's note-start)."""
        return File(path=READY + self.name, content="".join(f"{file.path}\n" for file in self.files), mode="0644")

    @property
    def started(self) -> str:
        """What note-start writes when the unit starts with the wanted files."""
        return "".join(f"{file.digest}  {file.path}\n" for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows that a query (on the database's unix socket) should give: all of *wanted*, in any order."""

    query: str
    wanted: frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What inside/probe.py printed."""

    files: Mapping[str, list[str] | None]
    units: Mapping[str, Mapping[str, str]]
    http: Mapping[str, int]
    ports: Mapping[str, bool]
    rows: Mapping[str, list[list[str]]]


class Look:
    """One container's probe, shared by all goals in it.

    The first look is for everything at once. Once a goal is forgotten (its step has run), only what that goal wants
    is looked for again: a whole look would wait for every API that is just starting.
    """

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self._everything: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
        self._whole: Seen | None = None
        self._own: dict[Goal, Seen | None] = {}
        self._lock = asyncio.Lock()

    def expect(self, wanted: Mapping[str, Iterable[str]]) -> None:
        """Have the first look include *wanted*: names by kind."""
        for kind, names in wanted.items():
            self._everything[kind].update(dict.fromkeys(names))

    def forget(self, goal: Goal) -> None:
        """Look again for *goal* next time."""
        self._own[goal] = None

    async def seen(self, goal: Goal) -> Seen:
        """What is there of what *goal* wants, and maybe more: one exec, however many ask at once."""
        if goal in self._own:
            seen = self._own[goal] or await self._probe(goal.wanted)
            if goal in self._own:
                self._own[goal] = seen
            return seen
        async with self._lock:
            if self._whole is None:
                self._whole = await self._probe(self._everything)
            return self._whole

    async def _probe(self, wanted: Mapping[str, Iterable[str]]) -> Seen:
        names = {kind: list(wanted[kind]) for kind in KINDS}
        if not (names["http"] or names["rows"]) and (seen := await self.shell.inspect(names)) is not None:
            return Seen(**seen)
        done = await self.shell.run(PYTHON, stdin=make_program("probe", names), timeout=PROBE_SECONDS)
        try:
            return Seen(**json.loads(done.stdout))
        except (ValueError, TypeError) as exc:
            raise CaasError(Code.FAILED, f"{self.shell.container}: the probe answered nonsense") from exc


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Goal:
    """What a step wants to see in one container. Two goals are never the same, even if they want the same."""

    look: Look
    files: tuple[File, ...] = ()
    units: tuple[Unit, ...] = ()
    http: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    rows: tuple[Rows, ...] = ()

    def __post_init__(self) -> None:
        self.look.expect(self.wanted)

    @property
    def wanted(self) -> Mapping[str, tuple[str, ...]]:
        """What the probe has to look for, by kind."""
        return {
            "files": tuple(file.path for file in self.all_files),
            "units": tuple(unit.name for unit in self.units),
            "http": self.http,
            "ports": self.ports,
            "rows": tuple(rows.query for rows in self.rows),
        }

    def forget(self) -> None:
        """Look again next time."""
        self.look.forget(self)

    @property
    def all_files(self) -> tuple[File, ...]:
        """Files of its own and of its units, each once; what lets a unit start comes last."""
        every = [*self.files, *(file for unit in self.units for file in unit.files), *(u.ready for u in self.units)]
        return tuple({file.path: file for file in every}.values())

    async def lacks(self) -> tuple[str, ...]:
        """What is not as wanted, in words; empty when all of it is seen."""
        seen = await self.look.seen(self)
        lacking: list[str] = []
        for file in self.all_files:
            if seen.files.get(file.path) != [file.digest, file.mode, file.owner, file.group]:
                lacking.append(f"file {file.path}")
        for unit in self.units:
            state: Mapping[str, Any] = seen.units.get(unit.name, {})
            if state.get("active") != "active":
                lacking.append(f"unit {unit.name} is {state.get('active', 'unknown')}")
            elif state.get("started") != unit.started:
                lacking.append(f"unit {unit.name} has read other files")
        lacking += [f"{place} answers {seen.http.get(place)}" for place in self.http if not _is_served(seen, place)]
        lacking += [f"nobody listens at {place}" for place in self.ports if not seen.ports.get(place)]
        for rows in self.rows:
            if rows.wanted - {tuple(row) for row in seen.rows.get(rows.query, [])}:
                lacking.append(f"rows of {rows.query}")
        return tuple(lacking)

    async def running(self) -> tuple[str, ...]:
        """Its units that run with other files than wanted: run() would restart them."""
        seen = await self.look.seen(self)
        return tuple(
            unit.name
            for unit in self.units
            if seen.units.get(unit.name, {}).get("active") == "active"
            and (seen.units[unit.name].get("started") != unit.started or _differs(seen, unit))
        )


def _is_served(seen: Seen, place: str) -> bool:
    return 200 <= seen.http.get(place, 0) < 400


def _differs(seen: Seen, unit: Unit) -> bool:
    return any((seen.files.get(file.path) or [""])[0] != file.digest for file in unit.files)
