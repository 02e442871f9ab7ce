"""One host: its two doors, what is saved for it, and the operations on it, one at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace

from agent.confirming import RETRY, Clock, Confirming, MachineClock, Waiting, still_waiting
from agent.core.apply import apply, plan_cluster
from agent.core.doors import (
    ContainerDoor,
    KernelDoor,
    Lack,
    LeftoverDoor,
    MergeDoor,
    ObservedContainer,
    ObservedNetwork,
)
from agent.core.drift import Drift, DriftLog
from agent.core.take_back import changes_network, make_taken_back
from agent.core.taken import Taken, find_taken
from agent.saved import SavedStates
from proto.errors import CaasError, Code
from proto.model import Action, ClusterHost, Container, Cost, HostState, Plan, Verb, Vxlan
from proto.removals import Removals, check_removal

log = logging.getLogger(__name__)


class Host:
    """The operations behind the RPCs. Blocking; call from worker threads. Changes exclude each other."""

    def __init__(
        self,
        name: str,
        kernel: KernelDoor,
        containers: ContainerDoor,
        saved: SavedStates,
        merging: MergeDoor | None = None,
        clock: Clock | None = None,
        leftovers: LeftoverDoor | None = None,
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.containers = containers
        self._merging = merging
        self._leftovers = leftovers
        self._saved = saved
        self._states = saved.load()
        self._removals = Removals(saved)
        self._lock = threading.Lock()
        self._clock = clock or MachineClock()
        self._confirming = Confirming(saved.unconfirmed, self._clock, self.take_back_due)
        self.drift = DriftLog()

    @contextmanager
    def alone(self) -> Iterator[Mapping[str, ClusterHost] | None]:
        """Keep changes away meanwhile: what is in force, by cluster; None where a change is under way."""
        if not self._lock.acquire(blocking=False):
            yield None
            return
        try:
            yield dict(self._states)
        finally:
            self._lock.release()

    def generations(self) -> dict[str, int]:
        """The generation in force of each cluster."""
        return {name: state.generation for name, state in list(self._states.items())}

    def removed(self) -> dict[str, int]:
        """The generation of each cluster's last removal."""
        return self._removals.all()

    def unconfirmed(self) -> dict[str, float]:
        """Clusters whose last change of the network waits to be confirmed, and for how many seconds yet."""
        return self._confirming.left()

    def taken_back(self) -> list[str]:
        """Clusters whose last change of the network was taken back."""
        return [name for name, state in list(self._states.items()) if state.taken_back]

    def saved(self, cluster: str) -> ClusterHost | None:
        """What is in force of *cluster*; None where it has nothing here."""
        return self._states.get(cluster)

    def observe(self) -> tuple[ObservedNetwork, Sequence[ObservedContainer]]:
        """What is ours, from both doors."""
        return self.kernel.observe(), self.containers.observe()

    def lacks(self, desired: ClusterHost | None) -> list[Lack]:
        """What this machine lacks, for *desired* if given."""
        state = desired.state if desired else HostState()
        wanted = state.containers
        found = [*self.kernel.lacks(state if desired else None)]
        if any(isinstance(link, Vxlan) for link in state.links) and not self.kernel.datapath().vxlan:
            found.append(Lack(what="vxlan devices: this kernel makes none", mend="modprobe vxlan"))
        merging = self._merging.lacks() if self._merging and any(one.merge for one in wanted) else ()
        return [*found, *self.containers.lacks(wanted), *merging]

    def others(self, cluster: str) -> HostState:
        """What all clusters but *cluster* want here, as saved."""
        return self._others(cluster)

    def taken(self, cluster: str, network: ObservedNetwork) -> Taken:
        """What *cluster* must keep away from here."""
        return find_taken(network.foreign, self._others(cluster), tuple(self.kernel.taken_ports()))

    def plan(self, desired: ClusterHost) -> Plan:
        """What Apply would do; changes nothing."""
        self._check(desired)
        others = self._others(desired.cluster)
        return plan_cluster(self.kernel, self.containers, desired.cluster, desired.state, others=others)

    def apply(
        self,
        desired: ClusterHost,
        *,
        confirm_within: float = 0.0,
        on_plan: Callable[[Plan], None],
        on_done: Callable[[Action], None],
    ) -> Cost:
        """Save *desired*, then make the host so. After a failure what was saved before is in force again.

        Where that changes the network, and `confirm` is not called within *confirm_within* seconds of it (0: for
        ever), the network is made as before by itself.
        """
        with self._lock:
            self._check(desired)
            before = self._states.get(desired.cluster)
            waiting = self._confirming.waiting(desired.cluster)
            doomed: set[str] = set()

            def note(plan: Plan) -> None:
                doomed.update(one.name for one in plan if one.kind == Container.kind and one.verb is Verb.DELETE)
                # Before the state: no restart may make what would then wait for nobody.
                is_older = waiting is not None and waiting.change.generation < desired.generation
                if confirm_within and (is_older or changes_network(plan)):
                    self._confirming.begin(desired, before, confirm_within)
                if before != desired:
                    self._save(desired)
                on_plan(plan)

            try:
                if self._leftovers and not self._states:
                    self._leftovers.remember()
                cost = self._apply(desired, note, on_done)
            except BaseException as exc:
                log.error("%s: generation %d is not in force: %s", desired.cluster, desired.generation, exc)
                self._put_back(desired, before, doomed, waiting)
                raise
            self._confirming.arm(desired.cluster, desired.generation)
            return cost

    def _put_back(
        self, desired: ClusterHost, before: ClusterHost | None, doomed: AbstractSet[str], waiting: Waiting | None
    ) -> None:
        """Save *before* again, without those of *doomed* that are gone: no restart may make empty ones in their place.

        Best effort: a failure here is logged and never replaces the first error.
        """
        try:
            if before is None:
                self._forget(desired.cluster)
            elif before != desired:
                there = {seen.container.name for seen in self.containers.observe()} if doomed else set()
                self._save(_without(before, doomed - there))
        except Exception:
            log.exception("%s: what was in force before is not saved again", desired.cluster)
        self._confirming.put_back(desired.cluster, waiting)

    def confirm(self, cluster: str, generation: int, *, hold: bool) -> None:
        """The change of *cluster* to *generation* stays, or, to *hold* it, its time begins anew. Where nothing waits it
        is done. STALE where another generation is in force, or this one's network was taken back; BUSY while it is.

        Does not wait for changes under way.
        """
        if self._confirming.confirm(cluster, generation, hold=hold):
            return
        state = self._states.get(cluster)
        if state is None or state.generation != generation:
            in_force = f"generation {state.generation}" if state else "nothing"
            raise CaasError(Code.STALE, f"{cluster}: {in_force} is in force, not generation {generation}")
        if state.taken_back:
            raise CaasError(
                Code.STALE,
                f"{cluster}: generation {generation} changed the network, was not confirmed in time, and is taken back",
                hint="see what cut the host off; then the same command again",
            )

    def take_back_due(self) -> None:
        """Take back each change of the network that nobody confirmed in time. A failure is logged, and tried again."""
        for cluster in self._confirming.due():
            with self._lock:
                taken_back = self._try_take_back(cluster)
            if taken_back:
                self._restore_until_done(cluster)

    def _try_take_back(self, cluster: str) -> bool:
        try:
            return self._save_taken_back(cluster)
        except Exception:
            log.exception("%s: not taken back", cluster)
            self._confirming.again(cluster)
            return False

    def _save_taken_back(self, cluster: str) -> bool:
        """Put what is to be instead of a change that is due into force. Whether there was one."""
        if (change := self._confirming.claim(cluster)) is None:
            return False
        in_force = self._states.get(cluster)
        if in_force is None or still_waiting(change, in_force) is None:
            self._confirming.drop(cluster)
            return False
        desired = make_taken_back(change.before.state if change.before else HostState(), in_force)
        try:
            self._others(cluster).union(desired.state)
        except CaasError as exc:
            log.error("%s: its network before is another cluster's now, and is not made again: %s", cluster, exc)
            desired = make_taken_back(HostState(), in_force)
        self._save(desired)
        self._confirming.drop(cluster)
        found = f"generation {in_force.generation} changed it, and was not confirmed within {change.within:g} s"
        event = Drift(
            time=self._clock.wall_seconds(),
            cluster=cluster,
            kind="network",
            name=cluster,
            found=found,
            mended=True,
            hint="it is as before that change, and containers stayed: see what cut this host off, then `caas up` again",
        )
        log.warning("%s", event)
        self.drift.add(event)
        return True

    def _restore_until_done(self, cluster: str) -> None:
        if self.restore(frozenset({cluster})):
            self._clock.call_later(RETRY, lambda: self._restore_until_done(cluster))

    def destroy(
        self,
        cluster: str,
        *,
        generation: int = 0,
        dry_run: bool,
        on_plan: Callable[[Plan], None],
        on_done: Callable[[Action], None],
    ) -> Cost:
        """Remove everything that carries *cluster*'s mark, and what it shared with none; then forget it, but for the
        *generation*. STALE where that is not above the one in force; 0 is above all.
        """
        with self._lock:
            before = self._states.get(cluster)
            is_empty = before is None or before.state == HostState()
            in_force = before.generation if before else 0
            check_removal(cluster, generation, in_force, is_empty=is_empty)
            if dry_run:
                others = self._others(cluster)
                on_plan(plan_cluster(self.kernel, self.containers, cluster, HostState(), others=others))
                return Cost(generation=0)
            # A generation of its own, for the one in force has other contents: an `up` after it takes the next.
            generation = generation or in_force + (not is_empty)
            # Saved first: a crash half-way goes on removing at the next start.
            nothing = ClusterHost(cluster=cluster, host=self.name, generation=max(generation, 1))
            if cluster in self._states:
                self._save(nothing)
            try:
                result = self._apply(nothing, on_plan, on_done)
                self.kernel.sweep()
            except BaseException as exc:
                log.error("%s: it is not removed: %s", cluster, exc)
                raise
            self._confirming.end(cluster)
            self._end_removal(cluster, generation)
            return replace(result, left=self._find_leftovers(cluster))

    def _find_leftovers(self, cluster: str) -> tuple[str, ...]:
        """What the removal of *cluster* has left: not a failure of it, since doing it again would not help."""
        left = self._leftovers.find(cluster, is_last=not self._states) if self._leftovers else ()
        for each in left:
            log.error("%s: left after its removal: %s", cluster, each)
        return left

    def restore(self, only: AbstractSet[str] | None = None) -> frozenset[str]:
        """After a start: make the host as saved, or these clusters of it. Those that cannot be restored are logged,
        left as they are, and returned."""
        self._settle_merging()
        if only is None:
            self._confirming.resume(self._states)
            with self._lock:
                for cluster in self._confirming.due():
                    self._try_take_back(cluster)
        behind = set()
        for cluster in list(self._states):
            if only is not None and cluster not in only:
                continue
            try:
                with self._lock:
                    if (desired := self._states.get(cluster)) is None:
                        continue
                    result = self._apply(desired, _ignore, _ignore)
                    if not (desired.state.links or desired.state.containers or desired.taken_back):
                        self.kernel.sweep()
                        self._end_removal(cluster, desired.generation)
                log.info("%s: as saved, %d kernel writes", cluster, result.kernel_writes)
            except CaasError as exc:
                behind.add(cluster)
                log.error("%s: not restored: %s (%s)", cluster, exc, exc.hint)
            except Exception:
                behind.add(cluster)
                log.exception("%s: not restored", cluster)  # the others' turn comes all the same
        try:
            wanted = [container for desired in self._states.values() for container in desired.state.containers]
            self.kernel.adopt_ports(wanted)
        except CaasError as exc:
            log.error("ports: %s (%s)", exc, exc.hint)
        return frozenset(behind)

    def _apply(self, desired: ClusterHost, on_plan: Callable[[Plan], None], on_done: Callable[[Action], None]) -> Cost:
        kernel_writes, container_writes = self.kernel.writes, self.containers.writes
        apply(
            self.kernel,
            self.containers,
            desired.cluster,
            desired.state,
            others=self._others(desired.cluster),
            on_plan=on_plan,
            on_done=on_done,
        )
        return Cost(
            generation=desired.generation,
            kernel_writes=self.kernel.writes - kernel_writes,
            container_writes=self.containers.writes - container_writes,
        )

    def _check(self, desired: ClusterHost) -> None:
        """The right host, not an older generation, nothing that another cluster has here."""
        if desired.host != self.name:
            raise CaasError(Code.INVALID, f"this is {self.name}, and the state is for {desired.host}")
        if desired.taken_back:
            raise CaasError(Code.INVALID, f"{desired.cluster}: to have taken back something is no state to ask for")
        before = self._states.get(desired.cluster)
        if before and desired.generation < before.generation:
            raise CaasError(
                Code.STALE,
                f"{desired.cluster}: generation {desired.generation} is older than {before.generation}, in force",
                hint="another coordinator changed it: run `caas plan` again",
            )
        if before and desired.generation == before.generation and before.taken_back:
            raise CaasError(
                Code.STALE,
                f"{desired.cluster}: generation {desired.generation} changed the network, was not confirmed in time, "
                "and is taken back",
                hint="run `caas up` again: it takes the next generation",
            )
        if before and desired.generation == before.generation and before != desired:
            raise CaasError(
                Code.STALE,
                f"{desired.cluster}: generation {desired.generation} is in force with other contents",
                hint="another coordinator changed it: run `caas plan` again",
            )
        self._removals.check_apply(desired.cluster, desired.generation, is_empty=desired.state == HostState())
        self._others(desired.cluster).union(desired.state)

    def _others(self, cluster: str) -> HostState:
        """What all clusters but *cluster* want here, as saved."""
        found = HostState()
        for name, saved in list(self._states.items()):
            if name != cluster:
                found = found.union(saved.state)
        return found

    def _save(self, desired: ClusterHost) -> None:
        self._saved.save(desired)
        self._states[desired.cluster] = desired
        self._settle_merging()

    def _forget(self, cluster: str) -> None:
        self._saved.forget(cluster)
        self._states.pop(cluster, None)
        self._settle_merging()

    def _end_removal(self, cluster: str, generation: int) -> None:
        """Remembered before it is forgotten: until then it is in force, and what is older is refused."""
        self._removals.remember(cluster, generation, self.generations())
        if cluster in self._states:
            self._forget(cluster)

    def _settle_merging(self) -> None:
        """The kernel merges pages while any saved cluster wants that. Its failure is told, and is no dead end: without
        it containers take more memory, and preflight asks."""
        if self._merging is None:
            return
        try:
            if any(one.merge for saved in self._states.values() for one in saved.state.containers):
                self._merging.hold()
            else:
                self._merging.release()
        except (CaasError, OSError) as exc:
            log.error("the kernel's merging of pages: %s", exc)


def _without(desired: ClusterHost, gone: AbstractSet[str]) -> ClusterHost:
    """*desired* without the containers that were deleted: no restart may make empty ones in their place."""
    kept = tuple(container for container in desired.state.containers if container.name not in gone)
    return replace(desired, state=replace(desired.state, containers=kept))


def _ignore(_: object) -> None:
    return None
