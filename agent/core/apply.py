"""Observe, plan, act with an undo stack, observe again. Success means that the host itself says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from agent.core.clones import source_name
from agent.core.doors import ContainerDoor, KernelDoor, NetworkThing, ObservedNetwork
from agent.core.plan import make_plan, scope
from proto.errors import CaasError, Code
from proto.model import Action, Container, HostState, Plan, Verb

log = logging.getLogger(__name__)
#: How many containers are made, started or stopped at once (facts.md: eight workers start 64 in half a second).
AT_ONCE = 8
OnDone = Callable[[Action], None]


def observe(kernel: KernelDoor, containers: ContainerDoor) -> tuple[HostState, ObservedNetwork]:
    """Everything of ours on this host, and the network as the kernel's door saw it."""
    network = kernel.observe()
    seen = tuple(found.container for found in containers.observe())
    state = replace(network.state, containers=seen)
    return state, network


def plan_cluster(
    kernel: KernelDoor, containers: ContainerDoor, cluster: str, desired: HostState, *, others: HostState
) -> Plan:
    """What is pending on this host for *cluster*. Others' objects are not looked at, nor what clusters share where it
    is only in *others*, the union of what all other clusters want here."""
    state, network = observe(kernel, containers)
    return make_plan(desired, scope(state, cluster, desired=desired, others=others), network.foreign)


def apply(
    kernel: KernelDoor,
    containers: ContainerDoor,
    cluster: str,
    desired: HostState,
    *,
    others: HostState,
    on_plan: Callable[[Plan], None],
    on_done: OnDone,
) -> Plan:
    """Make what *cluster* has on this host as *desired*; returns what was done. What *others* need is kept.

    On a failure everything done so far is taken back (a container that was deleted stays so), and the first
    error is raised. UNVERIFIED where all went well and the host still needs something.
    """
    plan = plan_cluster(kernel, containers, cluster, desired, others=others)
    on_plan(plan)
    if not plan:
        return plan
    with ExitStack() as undo:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="containers") as pool:
            for batch in _batches(plan):
                _perform_batch(kernel, containers, batch, pool, undo, on_done)
        if left := plan_cluster(kernel, containers, cluster, desired, others=others):
            raise CaasError(
                Code.UNVERIFIED,
                "applied, but the host still needs: " + "; ".join(map(str, left)),
                hint="something else changes these objects: see `ip monitor` and the host's other daemons",
            )
        undo.pop_all()
    return plan


def _batches(plan: Plan) -> Iterator[tuple[Action, ...]]:
    """Runs of actions that may go at once: the same verb on containers, no clone with its source; else one by one."""
    batch: list[Action] = []
    names: set[str] = set()
    for action in plan:
        if batch and not (_is_alike(batch[0], action) and _source_of(action) not in names):
            yield tuple(batch)
            batch, names = [], set()
        batch.append(action)
        names.add(action.name)
    if batch:
        yield tuple(batch)


def _is_alike(first: Action, action: Action) -> bool:
    return first.kind == action.kind == Container.kind and first.verb is action.verb


def _source_of(action: Action) -> str:
    """What must have been made before *action*, or ""."""
    thing = action.after
    return source_name(thing) if action.verb is Verb.CREATE and isinstance(thing, Container) else ""


def _perform_batch(
    kernel: KernelDoor,
    containers: ContainerDoor,
    batch: tuple[Action, ...],
    pool: ThreadPoolExecutor,
    undo: ExitStack,
    on_done: OnDone,
) -> None:
    """Run *batch*; what succeeded goes on the undo stack even if another of the batch failed."""
    if len(batch) == 1:
        perform(kernel, containers, batch[0])
        undo.callback(_take_back, kernel, containers, batch[0])
        on_done(batch[0])
        return
    futures = {pool.submit(perform, kernel, containers, action): action for action in batch}
    first: BaseException | None = None
    for future, action in futures.items():
        if (failure := future.exception()) is not None:
            first = first or failure
            continue
        undo.callback(_take_back, kernel, containers, action)
        on_done(action)
    if first is not None:
        raise first


def _take_back(kernel: KernelDoor, containers: ContainerDoor, action: Action) -> None:
    """Best effort: a failure here is logged and never replaces the first error."""
    if action.verb is Verb.DELETE and action.kind == Container.kind:
        log.warning("container %s stays deleted: its files are gone", action.name)
        return
    inverse = action.inverse()
    try:
        perform(kernel, containers, inverse)
    except Exception as exc:
        log.warning("%s: %s", inverse, exc)


def perform(kernel: KernelDoor, containers: ContainerDoor, action: Action) -> None:
    """Do *action* through the door it belongs to."""
    thing = action.thing
    if isinstance(thing, Container):
        _perform_container(kernel, containers, action, thing)
        return
    before, after = _network(action.before), _network(action.after)
    match action.verb:
        case Verb.CREATE:
            assert after is not None
            kernel.create(after)
        case Verb.CHANGE:
            assert before is not None
            assert after is not None
            kernel.change(before, after)
        case Verb.DELETE:
            assert before is not None
            kernel.delete(before)
        case _:
            raise CaasError(Code.FAILED, f"{action}: no such action for a {action.kind}")


def _network(thing: object) -> NetworkThing | None:
    assert thing is None or isinstance(thing, NetworkThing)
    return thing


def _perform_container(kernel: KernelDoor, containers: ContainerDoor, action: Action, container: Container) -> None:
    match action.verb:
        case Verb.CREATE:
            containers.create(container)
        case Verb.START:
            containers.start(container)
            kernel.set_port_mark(container)
        case Verb.STOP:
            containers.stop(container)
        case Verb.DELETE:
            containers.delete(container)
        case Verb.CHANGE:
            assert isinstance(action.before, Container)
            if action.before != container:
                containers.change(action.before, container)
            if container.running:
                kernel.set_port_mark(container)
        case Verb.RESTART:
            assert isinstance(action.before, Container)
            containers.stop(action.before)
            containers.change(action.before, container)
            containers.start(container)
            kernel.set_port_mark(container)
