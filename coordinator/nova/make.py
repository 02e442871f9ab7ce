"""All of nova's steps for a site. Pure: nothing is asked or changed before a step is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from coordinator.nova.compute import computes_at_once, make_compute_steps
from coordinator.nova.control import make_control_steps
from coordinator.nova.database import make_database_steps
from coordinator.nova.forget import make_forget_step
from coordinator.nova.glance import make_glance_steps
from coordinator.nova.goals import Look
from coordinator.nova.keystone import make_keystone_steps
from coordinator.nova.messaging import make_messaging_steps
from coordinator.nova.neutron import make_neutron_steps
from coordinator.nova.placement import make_placement_steps
from coordinator.nova.public import make_public_steps
from coordinator.nova.roles import Role
from coordinator.nova.secrets import Secrets
from coordinator.nova.site import Site
from coordinator.nova.step import World
from coordinator.nova.verify import Status, make_verify_steps
from coordinator.steps import Shell, Step
from proto.errors import invalid

#: Without a word from the caller: right for a host with two cores.
DEFAULT_CORES = 2


def make_steps(
    site: Site,
    shells: Mapping[str, Shell],
    secrets: Secrets,
    *,
    looks: Mapping[str, Look] | None = None,
    compute_gate: contextlib.AbstractAsyncContextManager[Any] | None = None,
) -> tuple[Step, ...]:
    """The steps that make *site* a working nova; *shells* has one for each container, by host name.

    *compute_gate* is held while a compute starts: an asyncio.Semaphore(computes_at_once(CORES)) is what it should
    be. *looks* are those that other steps use too. INVALID where a container has no shell.
    """
    missing = sorted(member.hostname for member in site.members if member.hostname not in shells)
    if missing:
        raise invalid(f"nova: no shell for {', '.join(missing)}")
    looks = looks or {member.hostname: Look(shells[member.hostname]) for member in site.members}
    world = World(site, secrets, looks)
    gate = compute_gate or asyncio.Semaphore(computes_at_once(DEFAULT_CORES))
    computes = make_compute_steps(world, gate)
    status = Status(world.shell(Role.NOVA_API))
    return (
        *make_database_steps(world),
        *make_messaging_steps(world),
        *make_keystone_steps(world),
        *make_public_steps(world),
        *make_glance_steps(world),
        *make_placement_steps(world),
        *make_neutron_steps(world),
        *make_control_steps(world),
        *computes,
        make_forget_step(world, status),
        *make_verify_steps(world, computes, status),
    )
