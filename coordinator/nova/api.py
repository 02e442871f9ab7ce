"""What keystone, glance, placement and nova-api have in common: a WSGI application under uwsgi."""

from __future__ import annotations

from coordinator.nova.goals import File, Goal, Unit
from coordinator.nova.render import render
from coordinator.nova.site import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import PORTS, place

#: Where Debian's packages put each application; user, unit, threads of a worker, path that answers without a token.
_APIS: dict[Role, tuple[str, str, str, int, str]] = {
    Role.KEYSTONE: ("/usr/bin/keystone-wsgi-public", "keystone", "keystone", 4, "v3"),
    Role.GLANCE: ("/usr/bin/glance-wsgi-api", "glance", "glance-api", 2, "healthcheck"),
    Role.PLACEMENT: ("/usr/bin/placement-api", "placement", "placement-api", 4, ""),
    # nova-api is written for eventlet: one thread for each worker.
    Role.NOVA_API: ("/usr/bin/nova-api-wsgi", "nova", "nova-api", 1, ""),
}


def make_uwsgi_file(world: World, role: Role) -> File:
    """How uwsgi serves the API of *role*."""
    program, user, name, threads, _ = _APIS[role]
    # keystone must be quick for all the others: threads instead of workers that each take seconds to load.
    workers = 1 if role is Role.KEYSTONE else world.site.options.api_workers
    return File(
        path=f"/etc/{user}/{name}-uwsgi.ini",
        content=render(
            "uwsgi.ini.j2",
            address="0.0.0.0",
            port=PORTS[role],
            program=program,
            name=name,
            user=user,
            threads=threads,
            workers=workers,
            chunked=role is Role.GLANCE,
        ),
        group=user,
    )


def make_api_step(
    world: World, role: Role, *, files: tuple[File, ...], needs: frozenset[str], extra: tuple[File, ...] = ()
) -> ServiceStep:
    """The step that configures and serves the API of *role*; *files* are read by it, *extra* are not."""
    _, _, name, _, path = _APIS[role]
    hostname = world.site.holder(role).hostname
    goal = Goal(
        look=world.look(role),
        files=extra,
        units=(Unit(name=name, files=(*files, make_uwsgi_file(world, role))),),
        http=(f"{place(world.site, role)}/{path}",),
    )
    return ServiceStep(
        id=f"{role}/server:{hostname}",
        title=f"{role}: API on {hostname}",
        needs=needs,
        goal=goal,
        secrets=world.secrets,
    )
