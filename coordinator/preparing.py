"""A bring-up up to its first change: look at everything, choose, and find every reason not to begin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from google.protobuf import json_format

from coordinator.away import assume_actions, containers_on, steps_without
from coordinator.compiling import Compiled, compile_cluster
from coordinator.config import ClusterFile
from coordinator.conflicts import check_conflicts
from coordinator.families import make_cluster_steps
from coordinator.fleet import AgentShell, Fleet
from coordinator.journal import Journal, Record
from coordinator.keepsake import recall_secrets
from coordinator.known import PUBLICS, keeper_of
from coordinator.nova import Secrets, make_secrets
from coordinator.pairs import find_ways, ways_to_json
from coordinator.preflight import NATBOX
from coordinator.prepared import Prepared
from coordinator.reading import Reading
from coordinator.staging import at_generation, find_new_clones, generation_of, without_clones
from coordinator.steps import Step
from coordinator.survey import Survey, gather_all, known_generation, survey
from proto import types_pb2
from proto.errors import CaasError, Code
from proto.model import ClusterHost, GatewayTable
from proto.wire import cluster_host_to_wire, gateway_table_to_wire

#: How often what another cluster takes on a host at the same moment is avoided by another choice.
TRIES = 4


async def prepare(fleet: Fleet, journal: Journal, reading: Reading) -> Prepared:
    """Look at everything and decide; raises every reason not to begin."""
    file = reading.file
    file.check_deployable()
    check_conflicts(fleet, journal, file)
    record = journal.find(file.name)
    found = await find_ways(await survey(fleet, file, journal.holders(file.name), journal), file, record)
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
    known = record.generation if record else 0
    record = replace(
        record or await _new_record(file, found, api_shell),
        generation=generation_of(compiled),
        file=reading.content,
        file_name=reading.file_name,
        surroundings=reading.surroundings_json,
        remembered=_desired_json(compiled),
    )
    make_all = partial(
        make_cluster_steps,
        file,
        compiled.hosts,
        shells,
        Secrets.from_dict(json.loads(record.secrets)),
        nameservers={name: host.probe.nameservers for name, host in found.hosts.items()},
        publics=compiled.publics,
        is_settled=record.state == "up" and not clones,
    )
    unreached = containers_on(file, found.away)

    def make_steps() -> tuple[Step, ...]:
        return steps_without(make_all(), unreached)

    return Prepared(
        file=file,
        record=record,
        survey=found,
        compiled=compiled,
        actions=actions,
        assumed=assume_actions({name: host for name, host in found.hosts.items() if host.away}, compiled),
        behind=_behind(found, compiled),
        api_shell=api_shell,
        steps=make_steps(),
        make_steps=make_steps,
        make_all_steps=make_all,
        clones=clones,
        first=first,
        newer=find_newer(found, file, known) if known else {},
    )


def find_newer(found: Survey, file: ClusterFile, known: int) -> dict[str, int]:
    """Who of *file* answered that it has a newer generation than the journal *known*s: another coordinator's."""
    there = {
        name: known_generation(host.probe, file.name) for name, host in found.present.items() if name in file.hosts
    }
    if file.natbox is not None and found.natbox_probe is not None and not found.natbox_away:
        there[NATBOX] = known_generation(found.natbox_probe, file.name)
    return {name: generation for name, generation in there.items() if generation > known}


async def prepare_apart(fleet: Fleet, journal: Journal, reading: Reading) -> Prepared:
    """As prepare(), once more where somebody took something between the look at a host and its plan."""
    for _ in range(TRIES - 1):
        try:
            return await prepare(fleet, journal, reading)
        except CaasError as exc:
            if exc.code is not Code.CONFLICT:
                raise
    return await prepare(fleet, journal, reading)


def _compile(file: ClusterFile, found: Survey, record: Record | None) -> Compiled:
    """At the generation in force where that has the same contents, else at the next one."""
    known = max(found.generation(), record.generation if record else 0)
    facts, remembered = found.facts(), found.remembered()
    compiled = compile_cluster(file, facts, remembered, generation=max(known, 1))
    compiled = _with_left_hosts(compiled, found)
    is_remembered = record and record.generation == known and record.remembered == _desired_json(compiled)
    if known and is_remembered and not found.taken_back():
        return compiled
    return _with_left_hosts(compile_cluster(file, facts, remembered, generation=known + 1), found)


def _with_left_hosts(compiled: Compiled, found: Survey) -> Compiled:
    """Hosts that the file has no more: nothing of the cluster is wanted there."""
    generation = generation_of(compiled)
    left = {
        name: ClusterHost(cluster=compiled.cluster, host=name, generation=generation)
        for name, host in found.hosts.items()
        if name not in compiled.hosts and (host.away or compiled.cluster in host.probe.generations)
    }
    natbox = compiled.natbox
    if natbox is None and found.natbox is not None:
        natbox = GatewayTable(cluster=compiled.cluster, generation=generation)
    return replace(compiled, hosts={**compiled.hosts, **left}, natbox=natbox)


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
    names = [name for name in compiled.hosts if not found.hosts[name].away]
    plans = [found.hosts[name].agent.plan(compiled.hosts[name]) for name in names]
    if found.natbox is not None and compiled.natbox is not None and not found.natbox_away:
        names.append(NATBOX)
        plans.append(found.natbox.plan(compiled.natbox))
    return dict(zip(names, await gather_all(plans), strict=True))  # type: ignore[arg-type]


def _behind(found: Survey, compiled: Compiled) -> tuple[str, ...]:
    """Who does not have this generation yet."""
    wanted = generation_of(compiled)
    hosts = [name for name in compiled.hosts if not found.hosts[name].away]
    names = [name for name in hosts if found.hosts[name].probe.generations.get(found.cluster) != wanted]
    if (
        found.natbox_probe is not None
        and not found.natbox_away
        and found.natbox_probe.generations.get(found.cluster) != wanted
    ):
        names.append(NATBOX)
    return tuple(names)
