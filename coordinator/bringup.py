"""`caas plan` and `caas up`: from a cluster file to a cloud, doing only what is pending.

Order: look, compile, preflight, intents into the journal, hosts and NATBox at once, nova's steps. An interrupt or
a failure leaves what was done; the next `up` goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from google.protobuf import json_format

from coordinator.compiling import Compiled, compile_cluster
from coordinator.config import ClusterFile
from coordinator.conflicts import check_conflicts
from coordinator.families import make_cluster_steps
from coordinator.fleet import AgentShell, Fleet
from coordinator.journal import Journal, Record
from coordinator.keepsake import recall_secrets
from coordinator.known import PUBLICS, keeper_of
from coordinator.nova import Secrets, make_secrets, nova_status
from coordinator.pairs import find_ways, ways_to_json
from coordinator.preflight import NATBOX, check_lacks, check_losses, check_restarts
from coordinator.prepared import Prepared
from coordinator.progress import Phases, Progress
from coordinator.reading import Reading
from coordinator.runner import pending_steps, run_steps
from coordinator.sending import Sender
from coordinator.staging import at_generation, find_new_clones, steps_before, without_clones
from coordinator.survey import Survey, gather_all, survey
from coordinator.teardown import holders_of
from proto import types_pb2
from proto.model import ClusterHost, GatewayTable
from proto.wire import cluster_host_to_wire, gateway_table_to_wire

#: States of a cluster that was up once: what runs in it is not restarted without leave.
WAS_UP = ("up", "changing", "broken")


async def prepare(fleet: Fleet, journal: Journal, reading: Reading) -> Prepared:
    """Look at everything and decide; raises every reason not to begin."""
    file = reading.file
    file.check_deployable()
    check_conflicts(journal, file)
    record = journal.find(file.name)
    found = await find_ways(await survey(fleet, file, journal.holders(file.name)), file, record)
    compiled = _compile(file, found, record)
    shells = {
        container.name: AgentShell(found.hosts[container.host].agent, file.name, container.name)
        for container in file.containers.values()
    }
    api_shell = shells[keeper_of(file)]
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
    make_steps = partial(
        make_cluster_steps,
        file,
        compiled.hosts,
        shells,
        Secrets.from_dict(json.loads(record.secrets)),
        nameservers={name: host.probe.nameservers for name, host in found.hosts.items()},
        publics=compiled.publics,
        is_settled=record.state == "up" and not clones,
    )
    return Prepared(
        file=file,
        record=record,
        survey=found,
        compiled=compiled,
        actions=actions,
        behind=_behind(found, compiled),
        api_shell=api_shell,
        steps=make_steps(),
        make_steps=make_steps,
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
    phases = Phases()
    progress.phase = "look"
    async with progress.step("look", "look at hosts, preflight"):
        prepared = await prepare(fleet, journal, reading)
        check_losses(prepared.actions, remove=remove, restart=restart)
        was_up = prepared.record.state in WAS_UP
        pending = await pending_steps(prepared.steps) if was_up else prepared.steps
        if was_up and not restart:
            await check_restarts(pending)
        if prepared.host_names or prepared.natbox_pending:
            await check_lacks(prepared.survey, prepared.compiled)
    for warning in prepared.compiled.warnings:
        progress.note(f"warning: {warning}")
    phases.end("look")
    journal.hold(prepared.file.name, holders_of(prepared.file))
    # Where nothing is to be done an interrupt breaks nothing.
    is_idle = prepared.record.state == "up" and not (prepared.host_names or prepared.natbox_pending or pending)
    if not is_idle:
        journal.save(replace(prepared.record, state="changing" if was_up else "deploying"))
    sender = Sender(prepared, progress)
    try:
        ran = await _work(prepared, sender, progress, phases)
    except BaseException:
        if not is_idle:
            journal.save(replace(prepared.record, state="broken" if was_up else "failed"))
        raise
    journal.save(replace(prepared.record, state="up"))
    nova = await nova_status(prepared.api_shell) if prepared.file.has_nova else {"computes_up": 0}
    return {
        "cluster": prepared.file.name,
        "generation": prepared.record.generation,
        "seconds": phases.total(),
        "phases": phases.seconds(),
        "steps": list(ran),
        "computes_up": nova["computes_up"],
        "writes": sender.writes,
    }


async def _work(prepared: Prepared, sender: Sender, progress: Progress, phases: Phases) -> tuple[str, ...]:
    """Hosts and NATBox, then nova's steps; in two stages where clones are to be made. Returns the steps that ran."""
    progress.phase = "hosts"
    if not prepared.clones:
        await sender.send_all()
        phases.end("hosts")
        progress.phase = "nova"
        ran = await run_steps(prepared.steps_on_hosts(), progress)
        phases.end("nova")
        return ran
    await sender.send_first()
    phases.end("hosts")
    progress.phase = "nova"
    steps = prepared.steps_on_hosts()
    before = steps_before(steps, prepared.clones)
    ran = await run_steps(before, progress)
    phases.end("sources")
    progress.phase = "clones"
    await sender.send_clones()
    phases.end("clones")
    progress.phase = "nova"
    ran += await run_steps(steps, progress, done=frozenset(step.id for step in before))
    phases.end("nova")
    return ran


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
    ways = {"ways": ways_to_json(compiled.ways)} if compiled.ways else {}
    publics = {PUBLICS: dict(compiled.publics)} if compiled.publics else {}
    return json.dumps({"hosts": hosts, "natbox": natbox, **ways, **publics}, sort_keys=True)


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
