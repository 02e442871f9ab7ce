"""`caas verify` and `caas test`: what a cluster promises, tried out."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.known import Known
from coordinator.nova import boot_test, nova_status
from coordinator.progress import Progress

PINGS_AT_ONCE = 16


async def verify(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, Any]:
    """Every container reaches every other of its network and its gateway; nova lists every compute up.

    Returns {"cluster", "ok", "pairs": [{"from", "to", "ok"}], "computes_up", "problems"}.
    """
    known = Known.find(fleet, journal, name)
    progress.phase = "verify"
    async with progress.step("verify:reach", "containers reach each other and their gateway"):
        pairs = await _reach(known)
    async with progress.step("verify:nova", "nova lists every compute up"):
        found = await nova_status(known.api_shell())
    down = [
        f"{entry['binary']} on {entry['host']} is {entry['state']}"
        for entry in found["services"]
        if entry["state"] != "up"
    ]
    missing = len(known.site.computes) - found["computes_up"]
    if missing > 0:
        down.append(f"{missing} of {len(known.site.computes)} computes are not up")
    lost = [f"{pair['from']} does not reach {pair['to']}" for pair in pairs if not pair["ok"]]
    for line in (*lost, *down):
        progress.note(f"error: {line}")
    return {
        "cluster": name,
        "ok": not lost and not down,
        "pairs": pairs,
        "computes_up": found["computes_up"],
        "problems": [*lost, *down],
    }


async def _reach(known: Known) -> list[dict[str, Any]]:
    """One ping for each ordered pair in a network, and from each container to its gateway."""
    limit = asyncio.Semaphore(PINGS_AT_ONCE)
    containers = [container for host in known.hosts.values() for container in host.state.containers]

    async def ping(source: str, target: str, address: str) -> dict[str, Any]:
        async with limit:
            done = await known.shell(source).run(["ping", "-n", "-q", "-c1", "-W2", address], timeout=10, check=False)
        return {"from": source, "to": target, "ok": done.status == 0}

    work = []
    for one in containers:
        work += [
            ping(one.hostname, other.hostname, str(other.nic.address.ip))
            for other in containers
            if other is not one and other.nic.address.network == one.nic.address.network
        ]
        if one.nic.gateway is not None:
            work.append(ping(one.hostname, "gateway", str(one.nic.gateway)))
    return list(await asyncio.gather(*work))


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
