"""Keystone's public endpoints: where the APIs are seen from outside, if anywhere; else where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coordinator.nova import keystone
from coordinator.nova.cloud import run_cloud
from coordinator.nova.goals import Goal, Rows
from coordinator.nova.roles import Role
from coordinator.nova.step import World, without_secrets
from coordinator.nova.urls import PUBLIC, TYPES, endpoint_url

ENDPOINTS_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicStep:
    """The public endpoints are the site's. They change by keystone's API, which forgets old ones; nothing restarts."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    goal: Goal
    job: dict[str, Any] = field(repr=False)

    async def done(self) -> bool:
        async with without_secrets(self.world.secrets, self.id):
            return not await self.goal.lacks()

    async def run(self) -> None:
        async with without_secrets(self.world.secrets, self.id):
            try:
                await run_cloud(self.world.shell(Role.KEYSTONE), self.job, seconds=ENDPOINTS_SECONDS)
            finally:
                self.goal.forget()

    async def undo(self) -> None:
        """Endpoints stay: they go with the database."""


def step_id(world: World) -> str:
    return f"keystone/public:{world.site.holder(Role.KEYSTONE).hostname}"


def make_public_steps(world: World) -> tuple[PublicStep, ...]:
    """One step, once the services are in the catalog."""
    urls = {kind: endpoint_url(world.site, service, PUBLIC) for service, kind in TYPES.items()}
    wanted = frozenset((kind, PUBLIC, world.site.region, url) for kind, url in urls.items())
    return (
        PublicStep(
            id=step_id(world),
            title="keystone: public endpoints",
            needs=frozenset({keystone.catalog_id(world)}),
            world=world,
            goal=Goal(look=world.look(Role.DATABASE), rows=(Rows(query=keystone.ENDPOINTS_QUERY, wanted=wanted),)),
            job={"action": "endpoints", "interface": PUBLIC, "region": world.site.region, "urls": urls},
        ),
    )
