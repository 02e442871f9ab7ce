"""Everything that must be right before the first change: what machines lack, what would be lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from coordinator.compiling import Compiled
from coordinator.steps import Step
from coordinator.survey import Survey, gather_all
from proto import types_pb2
from proto.errors import CaasError, Code
from proto.model import Verb

Actions = Mapping[str, Sequence[types_pb2.Action]]
NATBOX = "natbox"


async def check_lacks(survey: Survey, compiled: Compiled) -> None:
    """Ask every host that is there whether it can do what is wanted of it. UNSUPPORTED names each lack and its mend."""
    names = [name for name in compiled.hosts if not survey.hosts[name].away]
    probes = [survey.hosts[name].agent.probe(compiled.hosts[name]) for name in names]
    natbox = survey.natbox if not survey.natbox_away else None
    replies = await gather_all(probes, *([natbox.probe(compiled.natbox)] if natbox else []))
    lacks: list[tuple[str, types_pb2.Lack]] = []
    for name, reply in zip([*names, NATBOX], replies, strict=False):
        lacks += [(name, lack) for lack in reply.lacks]  # type: ignore[attr-defined]
    if lacks:
        raise CaasError(
            Code.UNSUPPORTED,
            "\n".join(f"{host}: {lack.what}" for host, lack in lacks),
            hint="\n".join(dict.fromkeys(f"on {host}: {lack.mend}" for host, lack in lacks if lack.mend)),
        )


def check_losses(actions: Actions, *, remove: bool, restart: bool) -> None:
    """REFUSED, with the list, where something would be removed without *remove* or restarted without *restart*."""
    removed = _lines(actions, Verb.DELETE)
    restarted = _lines(actions, Verb.RESTART)
    refused = [] if remove else removed
    flags = ["--remove"] if refused else []
    if restarted and not restart:
        refused += restarted
        flags.append("--restart")
    if refused:
        raise CaasError(
            Code.REFUSED,
            "this would remove or restart what is there:\n" + "\n".join(f"  {line}" for line in refused),
            hint=f"put it back into the file, or say {' '.join(flags)}",
        )


@runtime_checkable
class Restarting(Protocol):
    """A step that may restart services that run."""

    async def restarts(self) -> Sequence[str]:
        """The services that run now and that run() would restart."""


async def check_restarts(pending: Sequence[Step]) -> None:
    """REFUSED, with the list, where a *pending* step would restart a service of a cluster that is up."""
    lines = [
        f"  {step.id}: restart {', '.join(services)}"
        for step in pending
        if isinstance(step, Restarting) and (services := await _running(step))
    ]
    if lines:
        raise CaasError(
            Code.REFUSED,
            "this would restart services that run:\n" + "\n".join(lines),
            hint="undo that change in the file, or say --restart",
        )


async def _running(step: Restarting) -> Sequence[str]:
    """Nothing runs in a container that is not there yet."""
    try:
        return await step.restarts()
    except CaasError as exc:
        if exc.code is Code.NOT_FOUND:
            return ()
        raise


def _lines(actions: Actions, verb: Verb) -> list[str]:
    return [
        f"{host}: {action.verb} {action.kind} {action.name} ({action.why})"
        for host, listed in actions.items()
        for action in listed
        if action.verb == verb.value
    ]
