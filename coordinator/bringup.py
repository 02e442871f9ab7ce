"""`caas plan` and `caas up`: from a cluster file to a cloud, doing only what is pending.

Order: look, compile, preflight, intents into the journal, hosts and NATBox at once, nova's steps. An interrupt or
a failure leaves what was done; the next `up` goes on from there. What a host that is away keeps from being done is left
out: the cluster is `degraded` then, and `catch_up` does it when the host is back (docs/adr/0011-hosts-away.md).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.away import containers_on, find_lags, lags_to_dict, seen_of, steps_without
from coordinator.compiling import Compiled
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX as HOLDER_NATBOX
from coordinator.journal import Journal
from coordinator.known import holders_of, reading_of
from coordinator.nova import nova_status
from coordinator.preflight import NATBOX, check_lacks, check_losses, check_restarts
from coordinator.prepared import Prepared
from coordinator.preparing import TRIES, prepare_apart
from coordinator.progress import Phases, Progress
from coordinator.reading import Reading
from coordinator.runner import pending_steps, run_steps
from coordinator.sending import Sender
from coordinator.staging import at_generation, generation_of, steps_before
from coordinator.steps import Step
from coordinator.teardown import finish_removals, give_up
from proto import types_pb2
from proto.errors import CaasError, Code

#: States of a cluster that was up once: what runs in it is not restarted without leave.
WAS_UP = ("up", "degraded", "changing", "broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a bring-up may do, and, where the coordinator does it `by_itself`, nothing that nobody asked for."""

    remove: bool
    restart: bool
    by_itself: bool = False

    def __str__(self) -> str:
        return " ".join(["remove"] * self.remove + ["restart"] * self.restart)


async def plan(fleet: Fleet, journal: Journal, reading: Reading) -> dict[str, Any]:
    """The document of `caas plan`: pending work only."""
    prepared = await prepare_apart(fleet, journal, reading)
    await check_lacks(prepared.survey, prepared.compiled)
    pending = await pending_steps(prepared.steps)
    left = {step.id for step in pending}
    lags = find_lags(prepared, journal.behind(reading.file.name), lost={}, left={}, now=time.time())
    return {
        "hosts": {
            host: {"actions": [_action(action) for action in actions]}
            for host, actions in prepared.actions.items()
            if host != NATBOX and actions
        },
        "natbox": [_action(action) for action in prepared.actions.get(NATBOX, ())],
        "steps": [{"id": step.id, "needs": sorted(step.needs & left)} for step in pending],
        **({"behind": lags_to_dict(lags)} if lags else {}),
    }


async def up(
    fleet: Fleet,
    journal: Journal,
    reading: Reading,
    progress: Progress,
    *,
    remove: bool,
    restart: bool,
    forget: Sequence[str] = (),
) -> dict[str, Any]:
    """Bring the cluster of *reading* to what its file says; returns the summary.

    REFUSED where that would remove or restart what is there, unless *remove* or *restart* allows it. What hosts that
    are away keep from being done is in the summary's `behind`. *forget*: hosts that are given up.
    """
    await give_up(fleet, journal, reading.file.name, forget, progress, reading.file)
    return await _bring(fleet, journal, reading, progress, Leave(remove=remove, restart=restart))


async def catch_up(fleet: Fleet, journal: Journal, name: str, progress: Progress) -> dict[str, Any]:
    """What the last `up` of cluster *name* left to do, with the leave that it was given; returns the summary.

    STALE where a host has a newer generation: what another coordinator made is changed by nobody who was not asked to.
    """
    if (record := journal.find(name)) is None or record.state != "degraded":
        return {"cluster": name}
    allowed = record.allowed.split()
    leave = Leave(remove="remove" in allowed, restart="restart" in allowed, by_itself=True)
    return await _bring(fleet, journal, reading_of(record), progress, leave)


async def _bring(fleet: Fleet, journal: Journal, reading: Reading, progress: Progress, leave: Leave) -> dict[str, Any]:
    """Look and do; once more where another cluster took what was chosen, as long as another choice is possible."""
    phases = Phases()
    await finish_removals(fleet, journal, reading.file.name, progress)
    tried: list[tuple[Compiled, CaasError]] = []
    while True:
        prepared, pending = await _look(fleet, journal, reading, progress, leave)
        phases.end("look")
        for before, conflict in tried:
            if at_generation(before, 1) == at_generation(prepared.compiled, 1):
                raise conflict
        try:
            return await _carry_out(journal, prepared, pending, progress, phases, leave)
        except CaasError as exc:
            if exc.code is not Code.CONFLICT or len(tried) + 1 == TRIES:
                raise
            tried.append((prepared.compiled, exc))


async def _look(
    fleet: Fleet, journal: Journal, reading: Reading, progress: Progress, leave: Leave
) -> tuple[Prepared, Sequence[Step]]:
    """What was found, and the steps that are pending; nothing is changed, and every reason not to begin is raised."""
    progress.phase = "look"
    async with progress.step("look", "look at hosts, preflight"):
        prepared = await prepare_apart(fleet, journal, reading)
        while journal.leaving(reading.file.name).keys() & prepared.survey.answering:
            # Back since it was asked to remove what it has: first that.
            await finish_removals(fleet, journal, reading.file.name, progress)
            progress.phase = "look"
            prepared = await prepare_apart(fleet, journal, reading)
        for name, generation in prepared.newer.items():
            _tell_newer(name, generation, prepared, progress, leave)
        check_losses({**prepared.actions, **prepared.assumed}, remove=leave.remove, restart=leave.restart)
        was_up = prepared.record.state in WAS_UP
        pending = await pending_steps(prepared.steps) if was_up else prepared.steps
        if was_up and not leave.restart:
            await check_restarts(pending)
        if prepared.host_names or prepared.natbox_pending:
            await check_lacks(prepared.survey, prepared.compiled)
    for warning in prepared.compiled.warnings:
        progress.note(f"warning: {warning}")
    for holder, why in prepared.survey.away.items():
        progress.note(f"warning: {holder.removeprefix(':')} is away, and is left out: {why}")
    return prepared, pending


def _tell_newer(name: str, generation: int, prepared: Prepared, progress: Progress, leave: Leave) -> None:
    """Who was asked to change the cluster is told; by itself nobody changes what another coordinator made."""
    cluster = prepared.file.name
    text = f"{name} has generation {generation} of {cluster}, newer than all known here: another coordinator changed it"
    if leave.by_itself:
        raise CaasError(
            Code.STALE, text, hint=f"`caas plan FILE` shows how it differs; `caas up FILE` takes {cluster} over"
        )
    progress.note(f"warning: {text}")


async def _carry_out(
    journal: Journal,
    prepared: Prepared,
    pending: Sequence[Step],
    progress: Progress,
    phases: Phases,
    leave: Leave,
) -> dict[str, Any]:
    """Do it, intents first; returns the summary."""
    name, away = prepared.file.name, prepared.survey.away
    journal.hold(name, holders_of(prepared.file))
    _leave_away(journal, prepared, away)
    journal.saw(name, seen_of(prepared))
    was_up = prepared.record.state in WAS_UP
    record = replace(prepared.record, allowed=str(leave))
    # Where nothing is to be done an interrupt breaks nothing; what goes on by itself is gone on with.
    is_idle = record.state == "up" and not (prepared.host_names or prepared.natbox_pending or pending or away)
    if not is_idle:
        journal.save(replace(record, state="degraded" if leave.by_itself else "changing" if was_up else "deploying"))
    sender, left = Sender(prepared, progress), dict[str, str]()
    try:
        ran = await _work(prepared, sender, progress, phases, left)
    except BaseException:
        if not is_idle and not leave.by_itself:
            journal.save(replace(record, state="broken" if was_up else "failed"))
        raise
    _leave_away(journal, prepared, sender.lost)
    lags = find_lags(prepared, journal.behind(name), lost=sender.lost, left=left, now=time.time())
    journal.save_behind(name, {holder: lag.behind for holder, lag in lags.items()})
    journal.save(replace(record, state="degraded" if lags else "up"))
    return {
        "cluster": name,
        "generation": record.generation,
        "seconds": phases.total(),
        "phases": phases.seconds(),
        "steps": list(ran),
        "computes_up": await _count_computes(prepared, is_reached=not lags),
        "writes": sender.writes,
        "behind": lags_to_dict(lags),
    }


async def _count_computes(prepared: Prepared, *, is_reached: bool) -> int | None:
    """How many computes nova lists as up; None where it cannot be asked, which is a failure where it *is_reached*."""
    if not prepared.file.has_nova:
        return 0
    try:
        found: int = (await nova_status(prepared.api_shell))["computes_up"]
    except CaasError:
        if is_reached:
            raise
        return None
    return found


def _leave_away(journal: Journal, prepared: Prepared, away: Mapping[str, str]) -> None:
    """Write which of *away* are to have nothing of the cluster any more: they could not be asked to remove it."""
    staying = holders_of(prepared.file)
    addresses = {HOLDER_NATBOX: journal.holders(prepared.file.name).get(HOLDER_NATBOX, ""), **prepared.survey.addresses}
    leaving = {holder: addresses[holder] for holder in away if holder not in staying}
    journal.leave(prepared.file.name, leaving, generation_of(prepared.compiled))


async def _work(
    prepared: Prepared, sender: Sender, progress: Progress, phases: Phases, left: dict[str, str]
) -> tuple[str, ...]:
    """Hosts and NATBox, then nova's steps; in two stages where clones are to be made. Returns the steps that ran.

    *left* is filled with the steps that were left out since a host went away in the middle of it.
    """

    def find_steps() -> tuple[Step, ...]:
        return steps_without(prepared.steps_on_hosts(), containers_on(prepared.file, sender.lost))

    progress.phase = "hosts"
    if not prepared.clones:
        await sender.send_all()
        phases.end("hosts")
        progress.phase = "nova"
        ran = await run_steps(find_steps(), progress, left=left)
        phases.end("nova")
        return ran
    await sender.send_first()
    phases.end("hosts")
    progress.phase = "nova"
    before = steps_before(find_steps(), prepared.clones)
    ran = await run_steps(before, progress, left=left)
    phases.end("sources")
    progress.phase = "clones"
    await sender.send_clones()
    phases.end("clones")
    progress.phase = "nova"
    ran += await run_steps(find_steps(), progress, done=frozenset(step.id for step in before), left=left)
    phases.end("nova")
    return ran


def _action(action: types_pb2.Action) -> dict[str, str]:
    return {"verb": action.verb, "kind": action.kind, "name": action.name, "why": action.why}
