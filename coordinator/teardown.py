"""`caas down`: nothing of the cluster is left on any host. Hosts that are away are named, and keep it for now.

A removal has a generation, above all that is known of the cluster: whatever of before it comes late is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace

from coordinator.config import ClusterFile
from coordinator.fleet import AgentClient, Fleet, NatBoxClient
from coordinator.journal import NATBOX, Journal
from coordinator.progress import Progress
from coordinator.survey import ProbeReply, combine, known_generation
from proto import types_pb2

Clients = Mapping[str, AgentClient | NatBoxClient]


async def down(
    fleet: Fleet, journal: Journal, name: str, progress: Progress, file: ClusterFile | None = None
) -> dict[str, object]:
    """Remove cluster *name* everywhere; returns the summary. An unknown name is done already.

    Where a host fails, the others are done all the same, the cluster stays known, and a second `down` goes on.
    With *file*, its hosts are asked too: a journal that was lost is no reason to leave anything.
    """
    record = journal.find(name)
    holders = journal.holders(name) | (holders_of(file) if file else {})
    if record is None and not holders:
        progress.note(f"no cluster {name}: nothing to do")
        return {"cluster": name, "hosts": []}
    progress.phase = "down"
    clients: Clients = {
        holder: fleet.natbox(address) if holder == NATBOX else fleet.agent(holder, address)
        for holder, address in holders.items()
    }
    known = await _find_generations(clients, name)
    found = [answer for answer in known.values() if isinstance(answer, int)]
    generation = max(*found, record.generation if record else 0, 0) + 1
    if record is not None:
        record = replace(record, generation=generation)  # before it is sent: the next one is above it
        journal.save(replace(record, state="removing"))
    try:
        combine(await _destroy(clients, known, name, generation, progress))
    except BaseException:
        if record is not None:
            journal.save(replace(record, state="failed"))
        raise
    if record is not None:
        journal.forget(name)
    return {"cluster": name, "hosts": [host for host in holders if host != NATBOX]}


def holders_of(file: ClusterFile) -> dict[str, str]:
    """Who gets something of the cluster of *file*: name -> address."""
    found = {host.name: str(host.address) for host in file.hosts.values() if host.address is not None}
    return found | ({NATBOX: str(file.natbox.address)} if file.natbox else {})


async def _find_generations(clients: Clients, name: str) -> dict[str, int | BaseException]:
    """What each holder knows of the cluster's generations, or why it does not say."""
    probes: list[Awaitable[ProbeReply]] = [client.probe() for client in clients.values()]
    answers = await asyncio.gather(*probes, return_exceptions=True)
    return {
        holder: answer if isinstance(answer, BaseException) else known_generation(answer, name)
        for holder, answer in zip(clients, answers, strict=True)
    }


async def _destroy(
    clients: Clients, known: Mapping[str, int | BaseException], name: str, generation: int, progress: Progress
) -> list[BaseException]:
    """Who did not say what it has is not asked to remove it: the removal might be older than that."""

    async def destroy(client: AgentClient | NatBoxClient, holder: str, answer: int | BaseException) -> None:
        shown = holder.removeprefix(":")
        async with progress.step(f"destroy:{shown}", f"{shown}: remove {name}"):
            if isinstance(answer, BaseException):
                raise answer
            await client.destroy(name, _ignore, generation=generation)
            progress.journal.let_go(name, holder)

    work = (destroy(client, holder, known[holder]) for holder, client in clients.items())
    results = await asyncio.gather(*work, return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
