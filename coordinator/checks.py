"""`caas verify` and `caas test`: what a cluster promises, tried out."""

from __future__ import annotations

from typing import Any

from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.known import Known
from coordinator.nova import boot_test, nova_status
from coordinator.progress import Progress
from coordinator.reach import measure, targets_of


async def verify(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, Any]:
    """Every container reaches every other of its subnet and its gateway; nova lists every compute up.

    Returns {"cluster", "ok", "pairs": [{"from", "to", "ok", "reached", "mtu", "seconds", "cause"}],
    "computes_up", "problems"}.
    """
    known = Known.find(fleet, journal, name)
    progress.phase = "verify"
    async with progress.step("verify:reach", "containers reach each other and their gateway"):
        containers = [container for host in known.hosts.values() for container in host.state.containers]
        shells = {container.hostname: known.shell(container.hostname) for container in containers}
        reach = await measure(targets_of(containers), shells)
    async with progress.step("verify:nova", "nova lists every compute up"):
        has_nova = known.file.has_nova
        nothing: dict[str, Any] = {"services": [], "computes_up": 0}
        found = await nova_status(known.api_shell()) if has_nova else nothing
    down = [
        f"{entry['binary']} on {entry['host']} is {entry['state']}"
        for entry in found["services"]
        if entry["state"] != "up"
    ]
    computes = len(known.site.computes) if has_nova else 0
    if (missing := computes - found["computes_up"]) > 0:
        down.append(f"{missing} of {computes} computes are not up")
    lost = [f"{pair.source} to {pair.target}: {pair.cause}" for pair in reach.pairs if not pair.ok]
    for line in (*lost, *down):
        progress.note(f"error: {line}")
    return {
        "cluster": name,
        "ok": not lost and not down,
        "pairs": [pair.to_dict() for pair in reach.pairs],
        "computes_up": found["computes_up"],
        "problems": [*lost, *down],
    }


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
