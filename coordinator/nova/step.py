"""The steps of nova: goals to look for, and what to do where they are not met."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from coordinator.nova.goals import PYTHON, READY, Goal, Look, Unit, make_program
from coordinator.nova.roles import Role
from coordinator.nova.secrets import Secrets
from coordinator.nova.site import Site
from coordinator.steps import Shell
from proto.errors import CaasError

#: What starting one service may take on a loaded machine, in seconds.
SERVICE_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class World:
    """What every family of steps is made from."""

    site: Site
    secrets: Secrets
    looks: Mapping[str, Look]

    def look(self, role: Role) -> Look:
        """The look into the container that holds *role*."""
        return self.looks[self.site.holder(role).hostname]

    def shell(self, role: Role) -> Shell:
        return self.look(role).shell


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command inside a container. Secrets go by stdin or env, never by argv; none of it is in a repr."""

    argv: tuple[str, ...]
    stdin: str = field(default="", repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For inside/apply.py."""
        entry: dict[str, Any] = {"argv": list(self.argv), "stdin": self.stdin, "env": dict(self.env)}
        return entry | ({"user": self.user} if self.user else {})


@asynccontextmanager
async def without_secrets(secrets: Secrets, what: str) -> AsyncIterator[None]:
    """Whatever CaasError leaves the block says *what* it was about and shows no secret."""
    try:
        yield
    except CaasError as exc:
        raise secrets.redacted(exc).about(what) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStep:
    """Files, commands and units of one service in one container; `goal` says what is to be seen afterwards.

    `elsewhere` are goals in other containers (rows of the database). `gate` is held while it runs: computes are
    started a few at a time.
    """

    id: str
    title: str
    needs: frozenset[str]
    goal: Goal
    elsewhere: tuple[Goal, ...] = ()
    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    secrets: Secrets
    gate: contextlib.AbstractAsyncContextManager[Any] = field(default_factory=nullcontext, repr=False)

    async def done(self) -> bool:
        return not await self.why()

    async def why(self) -> tuple[str, ...]:
        """What run() would mend, in words."""
        async with without_secrets(self.secrets, self.id):
            return tuple([lack for goal in (self.goal, *self.elsewhere) for lack in await goal.lacks()])

    async def restarts(self) -> tuple[str, ...]:
        """Units that run now and that run() would restart."""
        async with without_secrets(self.secrets, self.id):
            return await self.goal.running()

    async def run(self) -> None:
        job = {
            "files": [file.to_dict() for file in self.goal.all_files],
            "before": [command.to_dict() for command in self.before],
            "units": [_describe(unit) for unit in self.goal.units],
            "wait": [[self.goal.units[0].name, place] for place in (*self.goal.ports, *self.goal.http)],
            "after": [command.to_dict() for command in self.after],
            "seconds": SERVICE_SECONDS,
        }
        async with self.gate, without_secrets(self.secrets, self.id):
            try:
                await self.goal.look.shell.run(PYTHON, stdin=make_program("apply", job), timeout=SERVICE_SECONDS + 60)
            finally:
                self._forget()

    async def undo(self) -> None:
        """Stop what it started and see that no boot starts it again; files and rows stay."""
        if not self.goal.units:
            return
        shell = self.goal.look.shell
        async with without_secrets(self.secrets, self.id):
            try:
                await shell.run(("rm", "-f", *(READY + unit.name for unit in self.goal.units)))
                await shell.run(
                    ("systemctl", "stop", *(f"{unit.name}.service" for unit in self.goal.units)), timeout=120.0
                )
            finally:
                self._forget()

    def _forget(self) -> None:
        for goal in (self.goal, *self.elsewhere):
            goal.forget()


def _describe(unit: Unit) -> dict[str, Any]:
    return {"name": unit.name, "reads": [file.path for file in unit.files]}
