"""`caas verify` and `caas test`: what a cluster promises, tried out."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.known import Known
from coordinator.nova import boot_test, nova_status
from coordinator.progress import Progress
from coordinator.reach import Pair, list_problems, look
from proto.errors import CaasError


async def verify(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, Any]:
    """Every container reaches every other one that it should and its gateway; nova lists every compute up.

    A host whose agent is away, or a nova that does not answer, is a problem like others: the rest is tried.
    Returns the document of `caas verify --json` (docs/verify.md).
    """
    known = Known.find(fleet, journal, name)
    progress.phase = "verify"
    # At once: neither needs the other, and nova takes its time to answer.
    pairs, (computes_up, down) = await asyncio.gather(_look_at_pairs(known, progress), _look_at_nova(known, progress))
    problems = [*list_problems(pairs), *down]
    for line in problems:
        progress.note(f"error: {line}")
    return {
        "cluster": name,
        "ok": not problems,
        "containers": {
            container.hostname: host for host in known.hosts for container in known.hosts[host].state.containers
        },
        "pairs": [pair.to_dict() for pair in pairs],
        "computes_up": computes_up,
        "problems": problems,
    }


async def _look_at_pairs(known: Known, progress: Progress) -> tuple[Pair, ...]:
    """Every pair of containers, judged."""
    async with progress.step("verify:reach", "containers reach each other and their gateway"):
        agents = {host: known.agent(host) for host in known.hosts if known.hosts[host].state.containers}
        return await look(known.file.name, known.hosts, agents)


async def _look_at_nova(known: Known, progress: Progress) -> tuple[int, list[str]]:
    """How many computes are up, and what is not. Nothing where the cluster is none of nova."""
    if not known.file.has_nova:
        return 0, []
    try:
        async with progress.step("verify:nova", "nova lists every compute up"):
            found = await nova_status(known.api_shell())
    except CaasError as exc:
        return 0, [f"nova cannot be asked: {exc.message}"]
    down = [
        f"{entry['binary']} on {entry['host']} is {entry['state']}"
        for entry in found["services"]
        if entry["state"] != "up"
    ]
    missing = len(known.site.computes) - found["computes_up"]
    if missing > 0:
        down.append(f"{missing} of {len(known.site.computes)} computes are not up")
    return found["computes_up"], down


async def test(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, Any]:
    """Boot a server on every compute, one after the other, and delete it again."""
    known = Known.find(fleet, journal, name)
    progress.phase = "test"
    booted = []
    for compute in known.site.computes:
        async with progress.step(f"test:{compute.hostname}", f"boot a server on {compute.hostname}"):
            await boot_test(known.api_shell(), compute.hostname)
        booted.append(compute.hostname)
    return {"cluster": name, "ok": True, "booted": booted}
