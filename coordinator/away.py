"""What hosts that are away leave undone: which steps wait for them, and what is pending where. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.compiling import Compiled
from coordinator.config import ClusterFile
from coordinator.journal import NATBOX as HOLDER_NATBOX
from coordinator.journal import Behind, Seen
from coordinator.known import holders_of
from coordinator.prepared import Prepared
from coordinator.staging import generation_of, steps_before
from coordinator.steps import Step
from coordinator.survey import HostSurvey, Survey
from coordinator.unique import STEP as UNIQUE
from proto import types_pb2
from proto.model import Container, Verb
from proto.wire import cluster_host_to_wire

CREATE, DELETE = Verb.CREATE.value, Verb.DELETE.value


def containers_on(file: ClusterFile, hosts: Collection[str]) -> frozenset[str]:
    """The containers of *file* on any of *hosts*."""
    return frozenset(name for name, spec in file.containers.items() if spec.host in hosts)


def steps_without(steps: Sequence[Step], containers: Collection[str]) -> tuple[Step, ...]:
    """The steps that can be done while *containers* cannot be reached: none in them, and none that needs such a one."""
    if not containers:
        return tuple(steps)
    # Only all containers together can be compared.
    return tuple(step for step in steps_before(steps, containers) if step.id != UNIQUE)


def assume_actions(hosts: Mapping[str, HostSurvey], compiled: Compiled) -> dict[str, list[types_pb2.Action]]:
    """The containers that each of *hosts*, which are away, will make and delete: what is in them is what one asks
    leave for. Links, and what has to be restarted, only the host itself can tell."""
    found = {}
    for name, host in hosts.items():
        there = {one.name for one in host.containers()}
        wanted = {one.name for one in compiled.hosts[name].state.containers} if name in compiled.hosts else set()
        found[name] = [
            types_pb2.Action(verb=verb, kind=Container.kind, name=one, why=f"{name} is away")
            for verb, names in ((DELETE, there - wanted), (CREATE, wanted - there))
            for one in sorted(names)
        ]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far one host is behind: the generation it has (0: none, or it is not known), the one that is wanted."""

    have: int
    wanted: int
    behind: Behind
    leaving: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As documents have it."""
        return describe_lag(self.behind, have=self.have, wanted=self.wanted, leaving=self.leaving)


def describe_lag(behind: Behind, *, have: int, wanted: int, leaving: bool = False) -> dict[str, Any]:
    """One entry of `behind` in documents. *leaving*: the host is to have nothing of the cluster."""
    return {
        "generation": have,
        "wanted": wanted,
        "why": behind.why,
        "since": behind.since,
        "pending": list(behind.pending),
        "leaving": leaving,
    }


def find_pending_steps(
    steps: Sequence[Step],
    file: ClusterFile,
    host: str,
    *,
    made: Collection[str],
    known: Collection[str],
    is_settled: bool,
) -> list[str]:
    """The ids of *steps* that wait for *host*, as far as can be told: nobody can look into its containers.

    Those about containers that are to be *made* there, those that were pending (*known*) before; where the cluster is
    not *is_settled*, was never up before, all that need the host.
    """
    late = _ids(steps) - _ids(steps_without(steps, containers_on(file, {host})))
    if is_settled:
        late &= {*known, *(_ids(steps) - _ids(steps_without(steps, made)))}
    return [step.id for step in steps if step.id in late]


def _ids(steps: Iterable[Step]) -> set[str]:
    return {step.id for step in steps}


def show_action(action: types_pb2.Action) -> str:
    """ "create container demo.c2"."""
    return f"{action.verb} {action.kind} {action.name}"


def seen_of(prepared: Prepared) -> dict[str, Seen]:
    """What the journal keeps of who answered, for when it does not."""
    name, compiled = prepared.file.name, prepared.compiled
    found = {
        host: Seen(
            generation=answer.probe.generations.get(name, 0),
            probe=answer.probe.SerializeToString(),
            observed=answer.seen.SerializeToString(),
            desired=cluster_host_to_wire(compiled.hosts[host]).SerializeToString() if host in compiled.hosts else b"",
        )
        for host, answer in prepared.survey.present.items()
    }
    probe = prepared.survey.natbox_probe
    if probe is not None and not prepared.survey.natbox_away:
        generation = probe.generations.get(name, 0)
        found[HOLDER_NATBOX] = Seen(generation=generation, probe=probe.SerializeToString())
    return found


def find_lags(
    prepared: Prepared,
    before: Mapping[str, Behind],
    *,
    lost: Mapping[str, str],
    left: Mapping[str, str],
    now: float,
) -> dict[str, Lag]:
    """Who is behind *now* (seconds since 1970), and who was so *before*: who was away, whom the sending *lost*, and
    where the steps *left* out have their containers."""
    file, found = prepared.file, prepared.survey
    reasons = {**found.away, **lost}
    for step, why in left.items():
        container = step.rpartition(":")[2]
        if container in file.containers:
            reasons.setdefault(file.containers[container].host, why)
    steps = prepared.make_all_steps() if reasons else ()
    is_settled = prepared.record.state in ("up", "degraded")
    lags = {}
    for holder, why in reasons.items():
        actions = prepared.assumed.get(holder, ()) or prepared.actions.get(holder.removeprefix(":"), ())
        made = {
            action.name.removeprefix(f"{file.name}.") for action in actions if action.verb == Verb.CREATE.value
        } & file.containers.keys()
        known = {*(before[holder].pending if holder in before else ()), *left}
        pending = [
            *(map(show_action, actions) if holder in found.away or holder in lost else ()),
            *find_pending_steps(steps, file, holder, made=made, known=known, is_settled=is_settled),
        ]
        lags[holder] = Lag(
            have=_generation_at(found, holder),
            wanted=generation_of(prepared.compiled),
            behind=Behind(since=before[holder].since if holder in before else now, why=why, pending=tuple(pending)),
            leaving=holder not in holders_of(file),
        )
    return lags


def _generation_at(found: Survey, holder: str) -> int:
    """The generation that *holder* was last known to have."""
    if holder in found.hosts:
        host = found.hosts[holder]
        return host.generation if host.away else host.probe.generations.get(found.cluster, 0)
    return found.natbox_probe.generations.get(found.cluster, 0) if found.natbox_probe else 0


def lags_to_dict(lags: Mapping[str, Lag]) -> dict[str, Any]:
    return {holder.removeprefix(":"): lag.to_dict() for holder, lag in lags.items()}
