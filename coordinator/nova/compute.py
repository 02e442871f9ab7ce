"""nova-compute: a step for each container that has the role. systemd calls it started once it has registered.

It waits for nova-conductor: a question to one that has no queue yet is lost, and asked again after ten seconds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from coordinator.nova import control, keystone, messaging, placement
from coordinator.nova.cloud import run_cloud
from coordinator.nova.goals import Goal, Unit
from coordinator.nova.roles import Role
from coordinator.nova.site import VIRT_DRIVERS, Member
from coordinator.nova.step import ServiceStep, World, without_secrets

FORGET_SECONDS = 30.0
#: Six at once came up well on two cores; all of sixty-four never did.
COMPUTES_PER_CORE = 3


def computes_at_once(cores: int) -> int:
    """How many computes may start at the same time on *cores* cores (1 or more)."""
    return max(2, COMPUTES_PER_CORE * cores)


def step_id(member: Member) -> str:
    return f"compute/server:{member.hostname}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeStep(ServiceStep):
    """nova-compute in one container. Undone, nova forgets it too."""

    world: World
    member: Member

    async def undo(self) -> None:
        """Stop it and have nova delete its service (with provider and mapping), where nova still answers."""
        # Not super(): a dataclass with slots is a new class, and the cell of super() would be the old one.
        await ServiceStep.undo(self)
        async with without_secrets(self.secrets, self.id):
            job = {"action": "forget", "host": self.member.hostname}
            await run_cloud(self.world.shell(Role.NOVA_API), job, seconds=FORGET_SECONDS)


def make_compute_steps(world: World, gate: contextlib.AbstractAsyncContextManager[Any]) -> tuple[ComputeStep, ...]:
    """One step for each compute; *gate* is held while one starts, until it has registered."""
    return tuple(_make_compute(world, member, gate) for member in world.site.computes)


def _make_compute(world: World, member: Member, gate: contextlib.AbstractAsyncContextManager[Any]) -> ComputeStep:
    driver = VIRT_DRIVERS[world.site.virt_driver]
    config = control.make_nova_config(world, member.hostname, path="/etc/nova/caas-compute.conf", compute_driver=driver)
    return ComputeStep(
        id=step_id(member),
        title=f"compute: nova-compute on {member.hostname}",
        needs=frozenset(
            {
                messaging.step_id(world),
                keystone.catalog_id(world),
                placement.step_id(world),
                control.daemon_id(world, Role.NOVA_CONDUCTOR),
            }
        ),
        goal=Goal(look=world.looks[member.hostname], units=(Unit(name="nova-compute", files=(config,)),)),
        secrets=world.secrets,
        gate=gate,
        world=world,
        member=member,
    )
