"""`caas down`: nothing of the cluster is left on any host. Hosts that are away are named, and keep it for now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace

from coordinator.fleet import AgentClient, Fleet, NatBoxClient
from coordinator.journal import NATBOX, Journal
from coordinator.progress import Progress
from coordinator.survey import combine
from proto import types_pb2


async def down(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, object]:
    """Remove cluster *name* everywhere; returns the summary. An unknown name is done already.

    Where a host fails, the others are done all the same, the cluster stays known, and a second `down` goes on.
    """
    record = journal.find(name)
    if record is None:
        progress.note(f"no cluster {name}: nothing to do")
        return {"cluster": name, "hosts": []}
    holders = journal.holders(name)
    journal.save(replace(record, state="removing"))
    progress.phase = "down"
    try:
        results = await asyncio.gather(*_work(fleet, holders, name, progress), return_exceptions=True)
        combine([result for result in results if isinstance(result, BaseException)])
    except BaseException:
        journal.save(replace(record, state="failed"))
        raise
    journal.forget(name)
    return {"cluster": name, "hosts": [host for host in holders if host != NATBOX]}


def _work(fleet: Fleet, holders: Mapping[str, str], name: str, progress: Progress) -> list[Awaitable[None]]:
    async def destroy(client: AgentClient | NatBoxClient, holder: str) -> None:
        shown = holder.removeprefix(":")
        async with progress.step(f"destroy:{shown}", f"{shown}: remove {name}"):
            await client.destroy(name, _ignore)
            progress.journal.let_go(name, holder)

    return [
        destroy(fleet.natbox(address) if holder == NATBOX else fleet.agent(holder, address), holder)
        for holder, address in holders.items()
    ]


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
