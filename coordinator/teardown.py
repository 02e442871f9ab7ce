"""`caas down`: nothing of the cluster is left on any host. From hosts that are away it is removed when they are back.

A removal has a generation, above all that is known of the cluster: whatever of before it comes late is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordinator.away import describe_lag
from coordinator.config import ClusterFile
from coordinator.fleet import AgentClient, Fleet, NatBoxClient
from coordinator.journal import NATBOX, Behind, Journal, Record
from coordinator.known import holders_of
from coordinator.progress import Progress, PutOff
from coordinator.survey import ProbeReply, combine, is_away, known_generation
from proto import types_pb2
from proto.errors import CaasError, Code, invalid

Clients = Mapping[str, AgentClient | NatBoxClient]


async def down(
    fleet: Fleet,
    journal: Journal,
    name: str,
    progress: Progress,
    file: ClusterFile | None = None,
    *,
    forget: Sequence[str] = (),
) -> dict[str, Any]:
    """Remove cluster *name* everywhere; returns the summary. An unknown name is done already.

    Where a host fails, the others are done all the same, the cluster stays known, and a second `down` goes on. So it
    is where a host, looking again when all is removed, finds something left: FAILED with what that is. What is
    on hosts that are away is in the summary's `behind`, and waits for them; *forget*: hosts that are given up.
    With *file*, its hosts are asked too: a journal that was lost is no reason to leave anything. Of a cluster that the
    journal does not know nothing can wait: then a host that is away is a failure.
    """
    await give_up(fleet, journal, name, forget, progress)
    record = journal.find(name)
    holders = journal.holders(name) | (holders_of(file) if file else {})
    holders = {holder: address for holder, address in holders.items() if holder not in map(_holder, forget)}
    if record is None and not holders:
        progress.note(f"no cluster {name}: nothing to do")
        return {"cluster": name, "hosts": [], "behind": {}}
    progress.phase = "down"
    clients = _connect(fleet, holders)
    known = await _find_generations(clients, name)
    found = [answer for answer in known.values() if isinstance(answer, int)]
    generation = max(*found, record.generation if record else 0, 0) + 1
    if record is None:
        combine([*(await _destroy(clients, known, name, generation, progress, waits=False)).values()])
        return {"cluster": name, "hosts": [host for host in holders if host != NATBOX], "behind": {}}
    record = replace(record, generation=generation)  # before it is sent: the next one is above it
    journal.save(replace(record, state="removing"))
    # Who was to have nothing already may hear of this removal though we hear no answer: it is no other coordinator's.
    waiting = journal.leaving(name)
    journal.leave(name, {holder: address for holder, address in holders.items() if holder in waiting}, generation)
    try:
        failures = await _destroy(clients, known, name, generation, progress, waits=True)
        if not all(map(is_away, failures.values())):
            combine([*failures.values()])
    except BaseException:
        journal.save(replace(record, state="failed"))
        raise
    journal.leave(name, {holder: holders[holder] for holder in failures}, generation)
    behind = _end(journal, record, failures)
    return {"cluster": name, "hosts": [host for host in holders if host not in {NATBOX, *failures}], "behind": behind}


async def go_on(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> None:
    """What a `down` of cluster *name* left to do because hosts were away."""
    if (record := journal.find(name)) is not None and record.state == "leaving":
        _end(journal, record, await finish_removals(fleet, journal, name, progress))


async def finish_removals(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> Mapping[str, BaseException]:
    """Remove *name* from the hosts that were away when that was asked for; returns those that still are, and why.

    STALE where one has a newer generation: what another coordinator made is not removed. Others' failures are raised.
    """
    removals, addresses = journal.leaving(name), journal.holders(name)
    if not removals:
        return {}
    progress.phase = "down"
    clients = _connect(fleet, {holder: addresses[holder] for holder in removals})
    known = await _find_generations(clients, name)
    for holder, answer in known.items():
        if isinstance(answer, int) and answer > removals[holder]:
            text = f"generation {answer} of {name}, newer than its removal here: another coordinator changed it"
            hint = f"`caas down {name}` removes it there, too"
            raise CaasError(Code.STALE, f"{_show(holder)} has {text}", hint=hint)
    failures: dict[str, BaseException] = {}
    for generation in sorted(set(removals.values())):
        some = {holder: client for holder, client in clients.items() if removals[holder] == generation}
        failures |= await _destroy(some, known, name, generation, progress, waits=True)
    combine([failure for failure in failures.values() if not is_away(failure)])
    return failures


async def give_up(
    fleet: Fleet,
    journal: Journal,
    name: str,
    hosts: Sequence[str],
    progress: Progress,
    file: ClusterFile | None = None,
) -> None:
    """Forget that *hosts* have anything of cluster *name*: they will not be asked to remove it.

    INVALID where *file* still has one, REFUSED where one answers: it can be asked.
    """
    for host in hosts:
        if file and (host in file.hosts or (_holder(host) == NATBOX and file.natbox)):
            raise invalid(
                f"--forget {host}: it is in the file", hint="take it and its containers out of the file first"
            )
        if (address := journal.holders(name).get(_holder(host))) is None:
            progress.note(f"{host}: nothing of {name} is known to be there")
            continue
        (answer,) = (await _find_generations(_connect(fleet, {_holder(host): address}), name)).values()
        if not isinstance(answer, BaseException):
            raise CaasError(
                Code.REFUSED,
                f"--forget {host}: it answers, so what it has of {name} can be removed",
                hint="the same command without --forget removes it",
            )
        journal.let_go(name, _holder(host))
        progress.note(f"{host} is given up: what it has of {name} stays there")


def _end(journal: Journal, record: Record, failures: Mapping[str, BaseException]) -> dict[str, Any]:
    """Forget the cluster, or, where it is left on hosts that are away, write why; returns these for documents."""
    name = record.name
    if not failures:
        journal.forget(name)
        return {}
    now, seen = time.time(), journal.seen(name)
    rows = {
        holder: Behind(since=now, why=str(failure), pending=(f"remove {name}",)) for holder, failure in failures.items()
    }
    journal.save_behind(name, rows)
    journal.save(replace(record, state="leaving"))
    return {
        _show(holder): describe_lag(
            row,
            have=seen[holder].generation if holder in seen else 0,
            wanted=journal.leaving(name)[holder],
            leaving=True,
        )
        for holder, row in journal.behind(name).items()
    }


def _connect(fleet: Fleet, holders: Mapping[str, str]) -> Clients:
    return {
        holder: fleet.natbox(address) if holder == NATBOX else fleet.agent(holder, address)
        for holder, address in holders.items()
    }


def _show(holder: str) -> str:
    return holder.removeprefix(":")


def _holder(shown: str) -> str:
    """What `_show` shows; no host of ours is called natbox where NATBox is meant."""
    return NATBOX if shown == _show(NATBOX) else shown


async def _find_generations(clients: Clients, name: str) -> dict[str, int | BaseException]:
    """What each holder knows of the cluster's generations, or why it does not say."""
    probes: list[Awaitable[ProbeReply]] = [client.probe() for client in clients.values()]
    answers = await asyncio.gather(*probes, return_exceptions=True)
    return {
        holder: answer if isinstance(answer, BaseException) else known_generation(answer, name)
        for holder, answer in zip(clients, answers, strict=True)
    }


async def _destroy(
    clients: Clients,
    known: Mapping[str, int | BaseException],
    name: str,
    generation: int,
    progress: Progress,
    *,
    waits: bool,
) -> dict[str, BaseException]:
    """Returns the failures. Who did not say what it has is not asked to remove it: the removal might be older.

    *waits*: it is no failure for now where one is away.
    """

    async def destroy(client: AgentClient | NatBoxClient, holder: str, answer: int | BaseException) -> None:
        if isinstance(answer, BaseException):
            raise answer
        result = await client.destroy(name, _ignore, generation=generation)
        if result.left:
            raise CaasError(
                Code.FAILED,
                f"{holder.removeprefix(':')}: {name} is removed, and this is left: {'; '.join(result.left)}",
                hint=f"remove it by hand, then: caas down {name}",
            )
        progress.journal.let_go(name, holder)

    async def tell(client: AgentClient | NatBoxClient, holder: str) -> BaseException | None:
        failure: BaseException | None = None
        async with progress.step(f"destroy:{_show(holder)}", f"{_show(holder)}: remove {name}"):
            try:
                await destroy(client, holder, known[holder])
            except CaasError as exc:
                failure = exc
                if waits and is_away(exc):
                    raise PutOff(exc.message) from exc
                raise
        return failure

    results = await asyncio.gather(
        *(tell(client, holder) for holder, client in clients.items()), return_exceptions=True
    )
    return {holder: failure for holder, failure in zip(clients, results, strict=True) if failure is not None}


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
