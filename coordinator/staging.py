"""Clones come after what they are clones of: a bring-up in two stages where clones have to be made. Pure.

First all but the clones that are not there yet; their sources are installed; then the clones, as copies of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from coordinator.compiling import Compiled
from coordinator.steps import Step
from proto import types_pb2
from proto.model import ClusterHost, Container, Verb


def find_new_clones(compiled: Compiled, actions: Mapping[str, Sequence[types_pb2.Action]]) -> frozenset[str]:
    """Host names of the clones that *actions* would make."""
    made = {
        (host, action.name)
        for host, listed in actions.items()
        for action in listed
        if action.kind == Container.kind and action.verb == Verb.CREATE.value
    }
    return frozenset(
        container.hostname
        for name, host in compiled.hosts.items()
        for container in host.state.containers
        if container.clone_of and (name, container.name) in made
    )


def without_clones(compiled: Compiled, clones: Collection[str], *, generation: int) -> dict[str, ClusterHost]:
    """The hosts that *clones* are wanted on, as they are to be before these are made."""
    found = {}
    for name, host in compiled.hosts.items():
        kept = tuple(container for container in host.state.containers if container.hostname not in clones)
        if len(kept) < len(host.state.containers):
            found[name] = replace(host, generation=generation, state=replace(host.state, containers=kept))
    return found


def generation_of(compiled: Compiled) -> int:
    """That of all its hosts."""
    return next(iter(compiled.hosts.values())).generation


def at_generation(compiled: Compiled, generation: int) -> Compiled:
    """*compiled* with another generation."""
    hosts = {name: replace(host, generation=generation) for name, host in compiled.hosts.items()}
    natbox = replace(compiled.natbox, generation=generation) if compiled.natbox else None
    return replace(compiled, hosts=hosts, natbox=natbox)


def steps_before(steps: Sequence[Step], clones: Collection[str]) -> tuple[Step, ...]:
    """The steps that neither are about *clones* nor need one that is. A step's id ends in its container's name."""
    late = {step.id for step in steps if step.id.rpartition(":")[2] in clones}
    while more := {step.id for step in steps if step.id not in late and step.needs & late}:
        late |= more
    return tuple(step for step in steps if step.id not in late)
