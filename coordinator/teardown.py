"""`caas down`: nothing of the cluster is left on any host. Hosts that are away are named, and keep it for now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from coordinator.config import ClusterFile
from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.known import file_of
from coordinator.preflight import NATBOX
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
    file = file_of(record)
    journal.save(replace(record, state="removing"))
    progress.phase = "down"
    results = await asyncio.gather(*_work(fleet, file, name, progress), return_exceptions=True)
    combine([result for result in results if isinstance(result, BaseException)])
    journal.forget(name)
    return {"cluster": name, "hosts": list(file.hosts)}


def _work(fleet: Fleet, file: ClusterFile, name: str, progress: Progress) -> list[Awaitable[None]]:
    async def destroy_on(host: str, address: str) -> None:
        async with progress.step(f"destroy:{host}", f"{host}: remove {name}"):
            await fleet.agent(host, address).destroy(name, _ignore)

    async def destroy_at_natbox(address: str) -> None:
        async with progress.step(f"destroy:{NATBOX}", f"{NATBOX}: remove {name}"):
            await fleet.natbox(address).destroy(name, _ignore)

    work: list[Awaitable[None]] = [destroy_on(host.name, str(host.address)) for host in file.hosts.values()]
    if file.natbox is not None:
        work.append(destroy_at_natbox(str(file.natbox.address)))
    return work


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
