"""Neutron's API, with no networks: nova asks it for the ports of every server that it shows or deletes.

There are no agents: servers have no network until a cluster can give them one.
"""

from __future__ import annotations

from coordinator.nova import database
from coordinator.nova.api import api_step_id, make_api_step
from coordinator.nova.goals import File
from coordinator.nova.render import render
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import NEUTRON, database_url, keystone_url, transport_url


def step_id(world: World) -> str:
    return api_step_id(world, NEUTRON)


def make_neutron_steps(world: World) -> tuple[ServiceStep, ...]:
    """One step: configuration and API, beside nova's."""
    site, secrets = world.site, world.secrets
    config = File(
        path="/etc/neutron/neutron.conf",
        content=render(
            "neutron.conf.j2",
            connection=database_url(site, "neutron", secrets.database_neutron, "neutron"),
            transport_url=transport_url(site, secrets),
            keystone_url=keystone_url(site),
            password=secrets.user_neutron,
            region=site.region,
        ),
        group="neutron",
    )
    return (make_api_step(world, NEUTRON, files=(config,), needs=frozenset({database.step_id(world)})),)
