"""`caas plan` and `caas up`: from a cluster file to a cloud, doing only what is pending.

Order: look, compile, preflight, intents into the journal, hosts and NATBox at once, nova's steps. An interrupt or
a failure leaves what was done; the next `up` goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf import json_format

from coordinator.compiling import Compiled, compile_cluster
from coordinator.config import ClusterFile
from coordinator.fleet import AgentShell, Fleet, NatBoxClient
from coordinator.journal import NATBOX as HOLDER_NATBOX
from coordinator.journal import Journal, Record
from coordinator.keepsake import KeepSecrets, recall_secrets
from coordinator.known import site_of
from coordinator.nova import Role, Secrets, make_secrets, make_steps, nova_status
from coordinator.preflight import NATBOX, Actions, check_lacks, check_losses, check_restarts
from coordinator.progress import Progress
from coordinator.reading import Reading
from coordinator.runner import pending_steps, run_steps
from coordinator.staging import at_generation, find_new_clones, steps_before, without_clones
from coordinator.steps import Step
from coordinator.survey import Survey, gather_all, survey
from coordinator.teardown import holders_of
from proto import types_pb2
from proto.model import ClusterHost, GatewayTable
from proto.wire import cluster_host_to_wire, gateway_table_to_wire

#: States of a cluster that was up once: what runs in it is not restarted without leave.
WAS_UP = ("up", "changing", "broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and what follows from it: nothing has been changed yet.

    `clones` are those that are to be made; `first` has their hosts as they are to be before that.
    """

    file: ClusterFile
    record: Record
    survey: Survey
    compiled: Compiled
    actions: Actions
    behind: tuple[str, ...]
    steps: tuple[Step, ...]
    api_shell: AgentShell
    clones: frozenset[str] = frozenset()
    first: Mapping[str, ClusterHost] = field(default_factory=dict)

    @property
    def host_names(self) -> tuple[str, ...]:
        """Those that something has to be sent to: pending actions, or an older generation."""
        return tuple(name for name in self.compiled.hosts if self.actions.get(name) or name in self.behind)

    @property
    def natbox_pending(self) -> bool:
        """Whether something has to be sent to NATBox."""
        return self.compiled.natbox is not None and bool(self.actions.get(NATBOX) or NATBOX in self.behind)


async def prepare(fleet: Fleet, journal: Journal, reading: Reading) -> Prepared:
    """Look at everything and decide; raises every reason not to begin."""
    file = reading.file
    file.check_deployable()
    record = journal.find(file.name)
    found = await survey(fleet, file, journal.holders(file.name))
    compiled = _compile(file, found, record)
    shells = {
        container.name: AgentShell(found.hosts[container.host].agent, file.name, container.name)
        for container in file.containers.values()
    }
    site = site_of(file, dict(compiled.hosts))
    api_shell = shells[site.holder(Role.NOVA_API).hostname]
    actions = await _plan(found, compiled)
    first: Mapping[str, ClusterHost] = {}
    if clones := find_new_clones(compiled, actions):
        generation = max(found.generation(), record.generation if record else 0) + 1
        first = without_clones(compiled, clones, generation=generation)
        compiled = at_generation(compiled, generation + 1)
    record = replace(
        record or await _new_record(file, found, api_shell),
        generation=_generation_of(compiled),
        file=reading.content,
        file_name=reading.file_name,
        surroundings=reading.surroundings_json,
        remembered=_desired_json(compiled),
    )
    secrets = Secrets.from_dict(json.loads(record.secrets))
    return Prepared(
        file=file,
        record=record,
        survey=found,
        compiled=compiled,
        actions=actions,
        behind=_behind(found, compiled),
        api_shell=api_shell,
        steps=(KeepSecrets(api_shell, secrets), *make_steps(site, shells, secrets)),
        clones=clones,
        first=first,
    )


async def plan(fleet: Fleet, journal: Journal, reading: Reading) -> dict[str, Any]:
    """The document of `caas plan`: pending work only."""
    prepared = await prepare(fleet, journal, reading)
    await check_lacks(prepared.survey, prepared.compiled)
    pending = await pending_steps(prepared.steps)
    left = {step.id for step in pending}
    return {
        "hosts": {
            host: {"actions": [_action(action) for action in actions]}
            for host, actions in prepared.actions.items()
            if host != NATBOX and actions
        },
        "natbox": [_action(action) for action in prepared.actions.get(NATBOX, ())],
        "steps": [{"id": step.id, "needs": sorted(step.needs & left)} for step in pending],
    }


async def up(
    fleet: Fleet, journal: Journal, reading: Reading, progress: Progress, *, remove: bool, restart: bool
) -> dict[str, Any]:
    """Bring the cluster of *reading* to what its file says; returns the summary.

    REFUSED where that would remove or restart what is there, unless *remove* or *restart* allows it.
    """
    began = time.monotonic()
    phases: dict[str, float] = {}
    progress.phase = "look"
    async with progress.step("look", "look at hosts, preflight"):
        prepared = await prepare(fleet, journal, reading)
        check_losses(prepared.actions, remove=remove, restart=restart)
        was_up = prepared.record.state in WAS_UP
        if was_up and not restart:
            await check_restarts(prepared.steps)
        if prepared.host_names or prepared.natbox_pending:
            await check_lacks(prepared.survey, prepared.compiled)
    for warning in prepared.compiled.warnings:
        progress.note(f"warning: {warning}")
    phases["look"] = time.monotonic() - began
    journal.hold(prepared.file.name, holders_of(prepared.file))
    journal.save(replace(prepared.record, state="changing" if was_up else "deploying"))
    try:
        writes = {"kernel": 0, "containers": 0}
        ran: tuple[str, ...] = ()
        if prepared.clones:
            await _apply_first(prepared, progress, writes)
            phases["hosts"] = time.monotonic() - began - sum(phases.values())
            progress.phase = "nova"
            ran = await run_steps(steps_before(prepared.steps, prepared.clones), progress)
            phases["sources"] = time.monotonic() - began - sum(phases.values())
        await _apply_hosts(prepared, progress, writes)
        phases["clones" if prepared.clones else "hosts"] = time.monotonic() - began - sum(phases.values())
        progress.phase = "nova"
        ran += await run_steps(prepared.steps, progress)
        phases["nova"] = time.monotonic() - began - sum(phases.values())
    except BaseException:
        journal.save(replace(prepared.record, state="broken" if was_up else "failed"))
        raise
    journal.save(replace(prepared.record, state="up"))
    nova = await nova_status(prepared.api_shell)
    return {
        "cluster": prepared.file.name,
        "generation": prepared.record.generation,
        "seconds": round(time.monotonic() - began, 2),
        "phases": {name: round(seconds, 2) for name, seconds in phases.items()},
        "steps": list(ran),
        "computes_up": nova["computes_up"],
        "writes": writes,
    }


async def _apply_first(prepared: Prepared, progress: Progress, writes: dict[str, int]) -> None:
    """The hosts that clones are to be made on, without these."""
    progress.phase = "hosts"

    async def apply(name: str, desired: ClusterHost) -> None:
        client = prepared.survey.hosts[name].agent
        actions = await client.plan(desired)
        async with progress.step(f"apply:{name}:sources", _title(name, actions)):
            _count(writes, await client.apply(desired, _ignore))

    await gather_all([apply(name, desired) for name, desired in prepared.first.items()])


async def _apply_hosts(prepared: Prepared, progress: Progress, writes: dict[str, int]) -> None:
    """Every host and NATBox that is behind, at once. The changing calls they make are added to *writes*.

    Who is not in the file any more is asked to remove everything, and forgotten when it has.
    """
    progress.phase = "hosts"
    file, cluster = prepared.file, prepared.file.name

    async def apply_host(name: str) -> None:
        client = prepared.survey.hosts[name].agent
        async with progress.step(f"apply:{name}", _title(name, prepared.actions.get(name, ()))):
            if name in file.hosts:
                result = await client.apply(prepared.compiled.hosts[name], _ignore)
            else:
                result = await client.destroy(cluster, _ignore)
                progress.journal.let_go(cluster, name)
        _count(writes, result)

    async def apply_natbox(client: NatBoxClient, table: GatewayTable) -> None:
        async with progress.step(f"apply:{NATBOX}", _title(NATBOX, prepared.actions.get(NATBOX, ()))):
            if file.natbox is not None:
                result = await client.apply(table, _ignore)
            else:
                result = await client.destroy(cluster, _ignore)
                progress.journal.let_go(cluster, HOLDER_NATBOX)
        _count(writes, result)

    work = [apply_host(name) for name in prepared.host_names]
    if prepared.natbox_pending and prepared.survey.natbox and prepared.compiled.natbox:
        work.append(apply_natbox(prepared.survey.natbox, prepared.compiled.natbox))
    await gather_all(work)
    for name in set(prepared.survey.hosts) - set(prepared.compiled.hosts):
        progress.journal.let_go(cluster, name)  # it was asked, and has nothing


def _count(writes: dict[str, int], result: types_pb2.ApplyEvent.Result) -> None:
    writes["kernel"] += result.kernel_writes
    writes["containers"] += result.container_writes


def _title(name: str, actions: Sequence[types_pb2.Action]) -> str:
    counts: dict[str, int] = {}
    for action in actions:
        counts[f"{action.verb} {action.kind}"] = counts.get(f"{action.verb} {action.kind}", 0) + 1
    what = ", ".join(what if count == 1 else f"{what} x{count}" for what, count in counts.items())
    return f"{name}: {what or 'nothing to change'}"


def _compile(file: ClusterFile, found: Survey, record: Record | None) -> Compiled:
    """At the generation in force where that has the same contents, else at the next one."""
    known = max(found.generation(), record.generation if record else 0)
    facts, remembered = found.facts(), found.remembered()
    compiled = compile_cluster(file, facts, remembered, generation=max(known, 1))
    compiled = _with_left_hosts(compiled, found)
    if known and record and record.generation == known and record.remembered == _desired_json(compiled):
        return compiled
    return _with_left_hosts(compile_cluster(file, facts, remembered, generation=known + 1), found)


def _with_left_hosts(compiled: Compiled, found: Survey) -> Compiled:
    """Hosts that the file has no more: nothing of the cluster is wanted there."""
    generation = _generation_of(compiled)
    left = {
        name: ClusterHost(cluster=compiled.cluster, host=name, generation=generation)
        for name, host in found.hosts.items()
        if name not in compiled.hosts and compiled.cluster in host.probe.generations
    }
    natbox = compiled.natbox
    if natbox is None and found.natbox is not None:
        natbox = GatewayTable(cluster=compiled.cluster, generation=generation)
    return replace(compiled, hosts={**compiled.hosts, **left}, natbox=natbox)


def _generation_of(compiled: Compiled) -> int:
    return next(iter(compiled.hosts.values())).generation


def _desired_json(compiled: Compiled) -> str:
    """The desired states as text, for comparison and for the journal."""
    hosts = {name: json_format.MessageToDict(cluster_host_to_wire(host)) for name, host in compiled.hosts.items()}
    natbox = json_format.MessageToDict(gateway_table_to_wire(compiled.natbox)) if compiled.natbox else None
    return json.dumps({"hosts": hosts, "natbox": natbox}, sort_keys=True)


async def _new_record(file: ClusterFile, found: Survey, api_shell: AgentShell) -> Record:
    """A cluster the journal does not know: a new one, or one whose journal was lost."""
    secrets = await recall_secrets(api_shell) if found.remembered().containers else make_secrets()
    return Record(
        name=file.name,
        state="deploying",
        generation=0,
        file_name="",
        file=b"",
        remembered="",
        secrets=json.dumps(secrets.to_dict()),
    )


async def _plan(found: Survey, compiled: Compiled) -> dict[str, Sequence[types_pb2.Action]]:
    names = list(compiled.hosts)
    plans = [found.hosts[name].agent.plan(compiled.hosts[name]) for name in names]
    if found.natbox is not None and compiled.natbox is not None:
        names.append(NATBOX)
        plans.append(found.natbox.plan(compiled.natbox))
    return dict(zip(names, await gather_all(plans), strict=True))  # type: ignore[arg-type]


def _behind(found: Survey, compiled: Compiled) -> tuple[str, ...]:
    """Who does not have this generation yet."""
    wanted = _generation_of(compiled)
    names = [name for name in compiled.hosts if found.hosts[name].probe.generations.get(found.cluster) != wanted]
    if found.natbox_probe is not None and found.natbox_probe.generations.get(found.cluster) != wanted:
        names.append(NATBOX)
    return tuple(names)


def _action(action: types_pb2.Action) -> dict[str, str]:
    return {"verb": action.verb, "kind": action.kind, "name": action.name, "why": action.why}


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
