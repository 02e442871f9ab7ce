"""The end of a bring-up: nova itself lists every compute `up`, and a server has booted on each.

Whether that was so is looked up, not remembered: the API's list of services, and nova's rows of the test servers
that were launched on a host and deleted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from coordinator.nova import compute, control, glance, keystone, neutron
from coordinator.nova.batches import Batches
from coordinator.nova.cloud import nova_status, run_cloud
from coordinator.nova.goals import Goal, Rows
from coordinator.nova.roles import Role
from coordinator.nova.site import Member
from coordinator.nova.step import World, without_secrets
from coordinator.steps import Shell, Step
from proto.errors import CaasError, Code

#: The image, the flavor and (with the host's name) the servers that tests boot.
TEST_NAME = "caas-test"
TEST_TEXT = "An image for the test servers of caas: no operating system, the fake driver starts anything.\n"
PREPARE_SECONDS = 60.0
UP_SECONDS = 90.0
BOOT_SECONDS = 120.0
#: Hosts in one job: nova is to be asked about many at once, and to boot no more at once than two cores can.
UP_MOST, BOOT_MOST = 64, 8

IMAGES_QUERY = "SELECT name, status FROM glance.images WHERE deleted = 0"
FLAVORS_QUERY = "SELECT name, is_public FROM nova_api.flavors"
MAPPED_QUERY = "SELECT host FROM nova_api.host_mappings"
BOOTED_QUERY = (
    "SELECT DISTINCT host FROM nova.instances WHERE display_name = CONCAT('caas-test-', host)"
    " AND launched_at IS NOT NULL AND deleted != 0 AND node IS NOT NULL"
)


class Status:
    """nova's own list of services, asked for once by all steps that look at it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._lock = asyncio.Lock()
        self._states: dict[str, str] | None = None
        self._forgotten = 0

    def forget(self) -> None:
        """Ask again next time. An answer that is under way may be from before what was done since."""
        self._states = None
        self._forgotten += 1

    async def up(self) -> frozenset[str]:
        """Hosts of nova-compute services that nova calls up."""
        return frozenset(host for host, state in (await self._look()).items() if state == "up")

    async def known(self) -> frozenset[str]:
        """Hosts of all nova-compute services that nova lists."""
        return frozenset(await self._look())

    async def _look(self) -> dict[str, str]:
        async with self._lock:
            while (states := self._states) is None:
                asked = self._forgotten
                services = (await nova_status(self._shell))["services"]
                if asked == self._forgotten:
                    self._states = {
                        str(entry["host"]): str(entry["state"])
                        for entry in services
                        if entry["binary"] == "nova-compute"
                    }
            return states


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareStep:
    """The test image and the test flavor."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    goal: Goal

    async def done(self) -> bool:
        async with without_secrets(self.world.secrets, self.id):
            return not await self.goal.lacks()

    async def run(self) -> None:
        job = {"action": "prepare", "name": TEST_NAME, "text": TEST_TEXT}
        async with without_secrets(self.world.secrets, self.id):
            try:
                await run_cloud(self.world.shell(Role.NOVA_API), job, seconds=PREPARE_SECONDS)
            finally:
                self.goal.forget()

    async def undo(self) -> None:
        """Image and flavor stay: they harm nobody and go with the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpStep:
    """nova lists the compute on one host as up, and has mapped it into its cell."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    status: Status
    compute: Step
    goal: Goal
    host: str
    waits: Batches

    async def done(self) -> bool:
        # Nobody to ask while the compute is not running as wanted: that saves a request that must fail.
        if not await self.compute.done():
            return False
        async with without_secrets(self.world.secrets, self.id):
            if await self.goal.lacks():
                return False
        async with without_secrets(self.world.secrets, self.id):
            return self.host in await self.status.up()

    async def run(self) -> None:
        async with without_secrets(self.world.secrets, self.id):
            try:
                if await self.waits.ask(self.host):
                    raise CaasError(
                        Code.FAILED,
                        f"after {UP_SECONDS:.0f} s nova does not show as up: {self.host}",
                        hint="its nova-compute says why: `caas logs`",
                    )
            finally:
                self.status.forget()
                self.goal.forget()

    async def undo(self) -> None:
        """Nothing was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootStep:
    """A server has been booted on one host, and deleted."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    goal: Goal
    host: str
    boots: Batches

    async def done(self) -> bool:
        async with without_secrets(self.world.secrets, self.id):
            return not await self.goal.lacks()

    async def run(self) -> None:
        async with without_secrets(self.world.secrets, self.id):
            try:
                check_booted(self.host, await self.boots.ask(self.host))
            finally:
                self.goal.forget()

    async def undo(self) -> None:
        """run() deletes what it boots, also where it fails."""


async def boot_test(shell: Shell, host: str) -> dict[str, Any]:
    """Boot a server on *host* without a network and delete it: `{"host", "boot", "delete"}`, in seconds.

    *shell* is that of the container with the role nova-api. FAILED with nova's own words where it does not boot.
    """
    answer = (await _boot(shell, (host,)))[host]
    check_booted(host, answer)
    return {"host": host, **answer}


def check_booted(host: str, answer: dict[str, Any]) -> None:
    """FAILED, with nova's own words, where *answer* says that no server booted on *host*."""
    if why := answer.get("error"):
        raise CaasError(Code.FAILED, f"no server boots on {host}: {why}", hint="`caas logs` has nova's own words")


async def _boot(shell: Shell, hosts: tuple[str, ...]) -> dict[str, Any]:
    job = {"action": "boot", "name": TEST_NAME, "hosts": list(hosts)}
    return await run_cloud(shell, job, seconds=BOOT_SECONDS)


async def _find_late(shell: Shell, hosts: tuple[str, ...]) -> dict[str, bool]:
    """Which of *hosts* nova does not show as up and mapped in time."""
    late = (await run_cloud(shell, {"action": "up", "hosts": list(hosts)}, seconds=UP_SECONDS))["late"]
    return {host: host in late for host in hosts}


def make_verify_steps(world: World, computes: tuple[compute.ComputeStep, ...], status: Status) -> tuple[Step, ...]:
    """The test's image and flavor, then for each compute: up, booted."""
    holder = world.site.holder(Role.NOVA_API).hostname
    prepare = PrepareStep(
        id=f"verify/prepare:{holder}",
        title="verify: image and flavor of the test servers",
        needs=frozenset({keystone.catalog_id(world), glance.step_id(world), control.api_id(world)}),
        world=world,
        goal=Goal(
            look=world.look(Role.DATABASE),
            rows=(
                Rows(query=IMAGES_QUERY, wanted=frozenset({(TEST_NAME, "active")})),
                Rows(query=FLAVORS_QUERY, wanted=frozenset({(TEST_NAME, "1")})),
            ),
        ),
    )
    shell = world.shell(Role.NOVA_API)
    waits = Batches(partial(_find_late, shell), most=UP_MOST)
    boots = Batches(partial(_boot, shell), most=BOOT_MOST)
    steps: list[Step] = [prepare]
    for step in computes:
        up = _make_up(world, step, status, waits)
        needs = frozenset({up.id, prepare.id, neutron.step_id(world)})
        steps += [up, _make_boot(world, step.member, needs, boots)]
    return tuple(steps)


def _make_up(world: World, step: compute.ComputeStep, status: Status, waits: Batches) -> UpStep:
    host = step.member.hostname
    return UpStep(
        id=f"verify/up:{host}",
        title=f"verify: nova lists {host} as up",
        needs=frozenset(
            {step.id, control.api_id(world), control.daemon_id(world, Role.NOVA_SCHEDULER), keystone.catalog_id(world)}
        ),
        world=world,
        status=status,
        compute=step,
        goal=Goal(look=world.look(Role.DATABASE), rows=(Rows(query=MAPPED_QUERY, wanted=frozenset({(host,)})),)),
        host=host,
        waits=waits,
    )


def _make_boot(world: World, member: Member, needs: frozenset[str], boots: Batches) -> BootStep:
    return BootStep(
        id=f"verify/boot:{member.hostname}",
        title=f"verify: a server boots on {member.hostname}",
        needs=needs,
        world=world,
        goal=Goal(
            look=world.look(Role.DATABASE),
            rows=(Rows(query=BOOTED_QUERY, wanted=frozenset({(member.hostname,)})),),
        ),
        host=member.hostname,
        boots=boots,
    )
