"""Placement."""

from __future__ import annotations

from coordinator.nova import database
from coordinator.nova.api import make_api_step
from coordinator.nova.goals import File
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import database_url, keystone_url


def step_id(world: World) -> str:
    return f"placement/server:{world.site.holder(Role.PLACEMENT).hostname}"


def make_placement_steps(world: World) -> tuple[ServiceStep, ...]:
    """One step: configuration and API."""
    site, secrets = world.site, world.secrets
    config = File(
        path="/etc/placement/placement.conf",
        content=render(
            "placement.conf.j2",
            connection=database_url(site, "placement", secrets.database_placement, "placement"),
            keystone_url=keystone_url(site),
            password=secrets.user_placement,
            region=site.region,
        ),
        group="placement",
    )
    return (make_api_step(world, Role.PLACEMENT, files=(config,), needs=frozenset({database.step_id(world)})),)
