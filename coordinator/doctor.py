"""`caas doctor`: every agent looks at its host, at once."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.config import Settings
from coordinator.fleet import AgentClient, Fleet
from coordinator.journal import Journal
from coordinator.known import file_of
from proto.errors import CaasError, Code


async def examine(fleet: Fleet, journal: Journal, settings: Settings, name: str) -> dict[str, Any]:
    """What is wrong with the host *name*, with those of the cluster *name*, or ("") with all that are known.

    NOT_FOUND where nothing is called so, or no host is known.
    """
    hosts = _choose(journal, settings, name)
    found = await asyncio.gather(*(_ask(fleet.agent(host, address)) for host, address in hosts.items()))
    by_host = dict(zip(hosts, found, strict=True))
    return {"hosts": by_host, "ok": all(one["agent"] == "up" and not one["findings"] for one in found)}


def _choose(journal: Journal, settings: Settings, name: str) -> dict[str, str]:
    known = {host: str(address) for host, address in settings.agents.items()}
    for record in journal.clusters():
        hosts = {host: str(one.address) for host, one in file_of(record).hosts.items()}
        if record.name == name:
            return hosts
        known = hosts | known
    if not known:
        raise CaasError(
            Code.NOT_FOUND, "no host is known", hint="`caas up FILE`, or name agents in /etc/caas/config.yaml"
        )
    if name and name not in known:
        raise CaasError(Code.NOT_FOUND, f"no host or cluster {name}; known hosts: {', '.join(sorted(known))}")
    return {name: known[name]} if name else known


async def _ask(agent: AgentClient) -> dict[str, Any]:
    try:
        complaints = await agent.doctor()
    except CaasError as exc:
        return {"agent": exc.code.value, "message": exc.message, "findings": []}
    return {
        "agent": "up",
        "findings": [{"what": one.what, "why": one.why, "mend": one.mend} for one in complaints],
    }
