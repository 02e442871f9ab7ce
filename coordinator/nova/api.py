"""What keystone, glance, placement, neutron and nova-api have in common: a WSGI application under uwsgi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.nova.goals import File, Goal, Unit
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import NEUTRON, PORTS, holding_role, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Where Debian's packages put an application, and how it is served.

    `path` answers without a token. `threads` of each worker: nova-api is written for eventlet and takes one.
    """

    program: str
    user: str
    unit: str
    threads: int
    path: str = ""
    arguments: str = ""


APIS: Mapping[str, Api] = {
    Role.KEYSTONE: Api(program="/usr/bin/keystone-wsgi-public", user="keystone", unit="keystone", threads=4, path="v3"),
    Role.GLANCE: Api(
        program="/usr/bin/glance-wsgi-api", user="glance", unit="glance-api", threads=2, path="healthcheck"
    ),
    Role.PLACEMENT: Api(program="/usr/bin/placement-api", user="placement", unit="placement-api", threads=4),
    Role.NOVA_API: Api(program="/usr/bin/nova-api-wsgi", user="nova", unit="nova-api", threads=1),
    NEUTRON: Api(
        program="/usr/bin/neutron-api",
        user="neutron",
        unit="neutron-api",
        threads=2,
        arguments="--config-file=/etc/neutron/neutron.conf",
    ),
}


def api_step_id(world: World, service: str) -> str:
    return f"{service}/server:{world.site.holder(holding_role(service)).hostname}"


def make_uwsgi_file(world: World, service: str) -> File:
    """How uwsgi serves the API of *service*."""
    api = APIS[service]
    # keystone must be quick for all the others: threads instead of workers that each take seconds to load.
    workers = 1 if service in (Role.KEYSTONE, NEUTRON) else world.site.options.api_workers
    return File(
        path=f"/etc/{api.user}/{api.unit}-uwsgi.ini",
        content=render(
            "uwsgi.ini.j2",
            address="0.0.0.0",
            port=PORTS[service],
            program=api.program,
            arguments=api.arguments,
            name=api.unit,
            user=api.user,
            threads=api.threads,
            workers=workers,
            chunked=service == Role.GLANCE,
        ),
        group=api.user,
    )


def make_api_step(
    world: World, service: str, *, files: tuple[File, ...], needs: frozenset[str], extra: tuple[File, ...] = ()
) -> ServiceStep:
    """The step that configures and serves the API of *service*; *files* are read by it, *extra* are not."""
    api, role = APIS[service], holding_role(service)
    goal = Goal(
        look=world.look(role),
        files=extra,
        units=(Unit(name=api.unit, files=(*files, make_uwsgi_file(world, service))),),
        http=(f"{place(world.site, service)}/{api.path}",),
    )
    return ServiceStep(
        id=api_step_id(world, service),
        title=f"{service}: API on {world.site.holder(role).hostname}",
        needs=needs,
        goal=goal,
        secrets=world.secrets,
    )
