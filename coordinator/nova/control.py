"""nova-api, nova-conductor and nova-scheduler: one nova.conf, with the database."""

from __future__ import annotations

from coordinator.nova import database, keystone, messaging
from coordinator.nova.api import make_api_step
from coordinator.nova.client import make_openrc_file
from coordinator.nova.goals import File, Goal, Unit
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import database_url, keystone_url, transport_url


def api_id(world: World) -> str:
    return f"nova-api/server:{world.site.holder(Role.NOVA_API).hostname}"


def daemon_id(world: World, role: Role) -> str:
    return f"{role}/server:{world.site.holder(role).hostname}"


def make_nova_config(world: World, hostname: str, *, path: str, compute_driver: str = "") -> File:
    """nova's configuration in the container *hostname*: a compute's has a driver and no database."""
    site, secrets = world.site, world.secrets
    return File(
        path=path,
        content=render(
            "nova.conf.j2",
            address=str(site.member(hostname).address),
            hostname=hostname,
            transport_url=transport_url(site, secrets),
            compute_driver=compute_driver,
            api_connection=database_url(site, "nova", secrets.database_nova, "nova_api"),
            connection=database_url(site, "nova", secrets.database_nova, "nova"),
            keystone_url=keystone_url(site),
            password=secrets.user_nova,
            region=site.region,
        ),
        group="nova",
    )


def make_control_steps(world: World) -> tuple[ServiceStep, ...]:
    """nova-api, then the two that log in at keystone when they start, and end where they are refused."""
    needs = frozenset({database.step_id(world)})
    with_account = needs | {messaging.step_id(world), keystone.catalog_id(world)}
    return (
        make_api_step(
            world,
            Role.NOVA_API,
            files=(_control_config(world, Role.NOVA_API),),
            needs=needs,
            extra=(make_openrc_file(world.site, world.secrets),),
        ),
        _make_daemon(world, Role.NOVA_CONDUCTOR, with_account),
        _make_daemon(world, Role.NOVA_SCHEDULER, with_account),
    )


def _control_config(world: World, role: Role) -> File:
    return make_nova_config(world, world.site.holder(role).hostname, path="/etc/nova/nova.conf")


def _make_daemon(world: World, role: Role, needs: frozenset[str]) -> ServiceStep:
    hostname = world.site.holder(role).hostname
    return ServiceStep(
        id=daemon_id(world, role),
        title=f"{role}: on {hostname}",
        needs=needs,
        goal=Goal(look=world.look(role), units=(Unit(name=str(role), files=(_control_config(world, role),)),)),
        secrets=world.secrets,
    )
