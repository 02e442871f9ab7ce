"""nova forgets computes whose containers are gone. What it knows is looked up in its own list of services."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.nova import control, keystone
from coordinator.nova.cloud import run_cloud
from coordinator.nova.roles import Role
from coordinator.nova.step import World, without_secrets
from coordinator.nova.verify import Status
from proto.errors import CaasError

FORGET_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetStep:
    """nova lists no compute that the cluster has no more."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    status: Status

    async def _gone(self) -> frozenset[str]:
        return await self.status.known() - {member.hostname for member in self.world.site.computes}

    async def done(self) -> bool:
        try:
            async with without_secrets(self.world.secrets, self.id):
                return not await self._gone()
        except CaasError:
            return True  # an API that does not answer yet lists nobody; it is asked again when it serves

    async def run(self) -> None:
        async with without_secrets(self.world.secrets, self.id):
            try:
                for host in sorted(await self._gone()):
                    job = {"action": "forget", "host": host}
                    await run_cloud(self.world.shell(Role.NOVA_API), job, seconds=FORGET_SECONDS)
            finally:
                self.status.forget()

    async def undo(self) -> None:
        """A compute that is there again registers by itself."""


def make_forget_step(world: World, status: Status) -> ForgetStep:
    """One step, beside nova's API."""
    holder = world.site.holder(Role.NOVA_API).hostname
    return ForgetStep(
        id=f"verify/forget:{holder}",
        title="verify: nova lists no compute that is gone",
        needs=frozenset({control.api_id(world), keystone.catalog_id(world)}),
        world=world,
        status=status,
    )
