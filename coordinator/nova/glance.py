"""Glance with its files on disk."""

from __future__ import annotations

from coordinator.nova import database
from coordinator.nova.api import make_api_step
from coordinator.nova.goals import File
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import database_url, keystone_url


def step_id(world: World) -> str:
    return f"glance/server:{world.site.holder(Role.GLANCE).hostname}"


def make_glance_steps(world: World) -> tuple[ServiceStep, ...]:
    """One step: configuration and API."""
    site, secrets = world.site, world.secrets
    config = File(
        path="/etc/glance/glance-api.conf",
        content=render(
            "glance-api.conf.j2",
            connection=database_url(site, "glance", secrets.database_glance, "glance"),
            keystone_url=keystone_url(site),
            password=secrets.user_glance,
            region=site.region,
        ),
        group="glance",
    )
    return (make_api_step(world, Role.GLANCE, files=(config,), needs=frozenset({database.step_id(world)})),)
