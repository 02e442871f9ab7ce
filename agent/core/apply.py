"""Observe, plan, act, observe again; after a failure take back what was done. Success: the host itself says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from agent.core.clones import source_name
from agent.core.doors import ContainerDoor, KernelDoor, NetworkThing, ObservedNetwork
from agent.core.plan import make_inverse, make_plan, scope
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
    tried: list[Action] = []
    try:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="containers") as pool:
            for batch in _batches(plan):
                _perform_batch(kernel, containers, batch, pool, tried, on_done)
        if left := plan_cluster(kernel, containers, cluster, desired, others=others):
            raise CaasError(
                Code.UNVERIFIED,
                "applied, but the host still needs: " + "; ".join(map(str, left)),
                hint="something else changes these objects: see `ip monitor` and the host's other daemons",
            )
    except BaseException:
        for inverse in make_inverse(tried):
            _take_back(kernel, containers, inverse)
        raise
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
    tried: list[Action],
    on_done: OnDone,
) -> None:
    """Run *batch*. What may have to be taken back joins *tried*, also what failed: it may be done in part, or whole."""
    if len(batch) == 1:
        futures = {_done(kernel, containers, batch[0]): batch[0]}
    else:
        futures = {pool.submit(perform, kernel, containers, action): action for action in batch}
    first: BaseException | None = None
    for future, action in futures.items():
        failure = future.exception()
        if failure is None or _may_be_done(action, failure):
            tried.append(action)
        if failure is None:
            on_done(action)
        first = first or failure
    if first is not None:
        raise first


def _done(kernel: KernelDoor, containers: ContainerDoor, action: Action) -> Future[None]:
    """As if a pool had run it: one by one, in the caller's thread."""
    future: Future[None] = Future()
    try:
        perform(kernel, containers, action)
        future.set_result(None)
    except BaseException as exc:
        future.set_exception(exc)
    return future


def _may_be_done(action: Action, failure: BaseException) -> bool:
    """Whether *action*, which failed, may have left something to take back. Where another object had the name, that one
    must stay."""
    return not (
        action.verb is Verb.CREATE
        and isinstance(failure, CaasError)
        and failure.code in (Code.CONFLICT, Code.NOT_OWNED)
    )


def _take_back(kernel: KernelDoor, containers: ContainerDoor, inverse: Action) -> None:
    """Best effort: a failure here is logged and never replaces the first error."""
    if inverse.verb is Verb.CREATE and inverse.kind == Container.kind:
        log.warning("container %s stays deleted: its files are gone", inverse.name)
        return
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
