"""Puts back what others change of ours: waits until the kernel tells of a change, looks, mends, and keeps a report.

Only what is saved is made so again, and by the plan that Apply would make. A container is started, never made, renewed
or removed. While a change is under way nothing is looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from agent.core.apply import AT_ONCE, observe, perform
from agent.core.doors import MendDoor, ObservedNetwork, WatchDoor
from agent.core.drift import Drift, Patience, Touch, find_culprits
from agent.core.plan import make_plan, scope
from agent.host import Host
from proto.errors import CaasError
from proto.model import Action, Bridge, ClusterHost, Container, HostState, Verb

log = logging.getLogger(__name__)
#: Seconds from the first message to the look: what belongs together comes together.
DEBOUNCE = 0.2
#: A container that is rebooting is down for a moment. Its monitor starts it again, not we.
REBOOT = 0.3
#: Seconds between looks where nothing is heard: for what the kernel tells nobody, such as sysctls and neighbours.
IDLE = 120.0
#: After a look, rest so many times as long as it took, but not longer than REST_MAX: many changes that do not concern
#: us cost a small part of a core.
REST, REST_MAX = 20, 0.5
#: Seconds between looks for what stands in the way: packet filters are read whole, and others change theirs often.
OBSTACLES = 1.0
#: Seconds until the next try, where a change was under way.
BUSY = 0.2
#: One mend may show the next: a bridge, then what stands on it.
ROUNDS = 3


@dataclass(slots=True)
class _Look:
    """One look: who touched what before it, and when to look again."""

    touches: Sequence[Touch]
    again: float = IDLE
    done: dict[tuple[str, str], Drift] = field(default_factory=dict)

    def come_back(self, seconds: float) -> None:
        self.again = min(self.again, seconds)


class Mender:
    """The watch over one host. *clock* is monotonic, *now* the time of day, both in seconds."""

    def __init__(
        self,
        host: Host,
        watch: WatchDoor,
        mends: MendDoor,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._host, self._watch, self._mends = host, watch, mends
        self._clock, self._now = clock, now
        self._patience = Patience()
        self._stopped: dict[str, float] = {}
        self._portless: dict[str, float] = {}
        self._lacks: set[tuple[str, str]] | None = None
        self._filters_by: list[Touch] = []
        self._obstacles_due = clock()
        self._refused: dict[str, str] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)

    def start(self) -> None:
        """Watch from now on, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """End the watch, after a mend under way."""
        self._ending.set()
        self._watch.wake()
        self._thread.join()

    def _run(self) -> None:
        heard: dict[Touch, None] = {}
        due = self._clock() + DEBOUNCE
        rested = due
        while not self._ending.is_set():
            try:
                touches = self._watch.wait(max(0.0, due - self._clock()))
                if touches:
                    heard |= dict.fromkeys(touches)
                    due = min(due, max(self._clock() + DEBOUNCE, rested))
                if self._clock() >= due and not self._ending.is_set():
                    began = self._clock()
                    again = self.look(list(heard))
                    heard = {} if again is not None else heard
                    ended = self._clock()
                    rested = ended + min(REST_MAX, REST * (ended - began))
                    due = ended + (BUSY if again is None else again)
            except Exception:
                log.exception("the watch over this host: a look failed")
                due = self._clock() + IDLE

    def look(self, touches: Sequence[Touch]) -> float | None:
        """Look and mend once. Seconds until the next look is due; None where a change is under way."""
        with self._host.alone() as states:
            if states is None:
                return None
            look = _Look(touches)
            # An empty state is a removal that was cut off: it goes on at the next start.
            kept = {name: one for name, one in states.items() if one.state.links or one.state.containers}
            for _ in range(ROUNDS if kept else 0):
                if not self._mend(kept, look):
                    break
            if kept and (look.done or not touches or any(one.kind in ("nft", "filter", "lost") for one in touches)):
                self._host.kernel.settle_ports()
            if kept:
                self._look_for_obstacles(kept, look)
        for event in look.done.values():
            log.warning("%s", event)
            self._host.drift.add(event)
        return look.again

    def _mend(self, states: Mapping[str, ClusterHost], look: _Look) -> bool:
        """One round; whether anything was done."""
        acted = self._raise_links(states, look)
        state, network = observe(self._host.kernel, self._host.containers)
        for cluster, desired in states.items():
            try:
                actions = self._plan(cluster, desired.state, state, network)
                self._refused.pop(cluster, None)
            except CaasError as exc:
                self._refuse(cluster, exc, look)
                continue
            acted = self._perform(cluster, self._restore_names(cluster, actions, look), look) or acted
            acted = self._mend_ports(cluster, desired.state, state, look) or acted
        return acted

    def _raise_links(self, states: Mapping[str, ClusterHost], look: _Look) -> bool:
        """First of all: what is down takes routes with it."""
        owners = {link.name: cluster for cluster, desired in states.items() for link in desired.state.links}
        waiting = {name for name in owners if self._patience.wait("link", name, self._clock()) > 0}
        raised = self._mends.raise_links([name for name in owners if name not in waiting])
        for name in raised:
            self._try(owners[name], "link", name, "it was down", lambda: None, look)
        return bool(raised)

    def _plan(self, cluster: str, desired: HostState, state: HostState, network: ObservedNetwork) -> list[Action]:
        seen = scope(state, cluster, desired=desired, others=self._host.others(cluster))
        # A container that is not there, or not as it was made, is for Apply: to make one anew loses what was in it.
        there = {one.name: one for one in seen.containers}
        wanted = [replace(there[one.name], running=one.running) for one in desired.containers if one.name in there]
        actions = make_plan(
            replace(desired, containers=tuple(wanted)),
            replace(seen, containers=tuple(there[one.name] for one in wanted)),
            network.foreign,
        )
        names = {action.name for action in actions if action.kind == Container.kind}
        self._stopped = {name: since for name, since in self._stopped.items() if name in names}
        return [one for one in actions if one.kind != Container.kind or one.verb in (Verb.START, Verb.CHANGE)]

    def _restore_names(self, cluster: str, actions: list[Action], look: _Look) -> list[Action]:
        """*actions* without the bridge that only has another name: it gets its own back, with its ports."""
        gone = [one.before for one in actions if one.verb is Verb.DELETE and isinstance(one.before, Bridge)]
        lost = [one.after for one in actions if one.verb is Verb.CREATE and isinstance(one.after, Bridge)]
        pairs = [(old, new) for old in gone for new in lost if old is not None and new is not None]
        pairs = [(old, new) for old, new in pairs if (old.mark, old.mtu) == (new.mark, new.mtu)]
        if len(pairs) != 1:
            return actions
        ((old, new),) = pairs

        def rename() -> None:
            self._mends.rename(old, new.name)

        if self._try(cluster, new.kind, new.name, f"it was called {old.name}", rename, look):
            return []  # the next round sees what is left
        return [one for one in actions if one.thing not in (old, new)]

    def _perform(self, cluster: str, actions: Iterable[Action], look: _Look) -> bool:
        acted, starts = False, []
        for action in actions:
            if action.verb is Verb.START:
                starts.append(action)
            else:
                acted = self._act(cluster, action, look) or acted
        ready = [one for one in starts if self._is_stopped(one.name, look)]
        if ready:
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mends") as pool:
                acted = any([*pool.map(lambda one: self._act(cluster, one, look), ready)]) or acted
        return acted

    def _act(self, cluster: str, action: Action, look: _Look) -> bool:
        found = "it does not run" if action.verb is Verb.START else action.why

        def act() -> None:
            perform(self._host.kernel, self._host.containers, action)

        return self._try(cluster, action.kind, action.name, found, act, look)

    def _is_stopped(self, name: str, look: _Look) -> bool:
        """Whether it has been down for longer than a reboot takes."""
        since = self._stopped.setdefault(name, self._clock())
        left = since + REBOOT - self._clock()
        if left > 0:
            look.come_back(left)
        return left <= 0

    def _mend_ports(self, cluster: str, desired: HostState, state: HostState, look: _Look) -> bool:
        running = {one.name for one in state.containers if one.running}
        wanted = {one.name: one for one in desired.containers if one.name in running}
        if not wanted:
            return False
        acted = False
        stray = self._mends.find_stray(tuple(wanted.values()))
        self._portless = {name: since for name, since in self._portless.items() if name in stray}
        for name, fault in stray.items():
            container = wanted[name]
            # One whose port is gone may be ending just now.
            if self._clock() - self._portless.setdefault(name, self._clock()) < REBOOT and fault.endswith("gone"):
                look.come_back(REBOOT)
                continue

            def join(container: Container = container) -> None:
                self._mends.join(container)

            acted = self._try(cluster, "port", container.nic.port, fault, join, look) or acted
        return acted

    def _try(self, cluster: str, kind: str, name: str, found: str, act: Callable[[], None], look: _Look) -> bool:
        """Mend one object, unless it has to wait; whether it was mended."""
        started = self._clock()
        if (left := self._patience.wait(kind, name, started)) > 0:
            look.come_back(left)
            return False
        hint, mended = "", True
        try:
            act()
        except CaasError as exc:
            found, hint, mended = f"{found}; {exc.message}", exc.hint, False
        wait = self._patience.tried(kind, name, started)
        if wait:
            found = f"{found}; somebody keeps changing it: left alone for {wait:.0f} s"
            look.come_back(wait)
        elif not mended:
            look.come_back(BUSY)
        event = self._make_event(cluster, kind, name, found, look)
        self._note(look, replace(event, hint=hint, mended=mended))
        return mended

    def _make_event(self, cluster: str, kind: str, name: str, found: str, look: _Look) -> Drift:
        """As long as nobody says otherwise, it is not mended."""
        by = find_culprits(kind, look.touches)
        return Drift(time=self._now(), cluster=cluster, kind=kind, name=name, found=found, by=by, mended=False)

    @staticmethod
    def _note(look: _Look, event: Drift) -> None:
        """What was first found of an object is what others did; a later round only says whether it is well now."""
        key = event.kind, event.found if event.kind == "obstacle" else event.name
        first = look.done.get(key)
        look.done[key] = replace(first, mended=event.mended, hint=event.hint) if first else event

    def _refuse(self, cluster: str, exc: CaasError, look: _Look) -> None:
        """Something that is not ours stands in the way: told once, and tried again when something changes."""
        if self._refused.get(cluster) == exc.message:
            return
        self._refused[cluster] = exc.message
        event = self._make_event(cluster, "cluster", cluster, exc.message, look)
        self._note(look, replace(event, hint=exc.hint))

    def _look_for_obstacles(self, states: Mapping[str, ClusterHost], look: _Look) -> None:
        """What of the host's own has come to stand in the way: not ours to change. Each is told once."""
        self._filters_by = [*self._filters_by, *(one for one in look.touches if one.kind in ("nft", "lost"))]
        if not self._filters_by and look.touches and self._lacks is not None:
            return
        if (left := self._obstacles_due - self._clock()) > 0:
            look.come_back(left if self._filters_by else IDLE)
            return
        look = replace(look, touches=self._filters_by)
        self._filters_by = []
        self._obstacles_due = self._clock() + OBSTACLES
        found: dict[tuple[str, str], Drift] = {}
        for cluster, desired in states.items():
            for lack in self._host.kernel.lacks(desired.state):
                event = self._make_event(cluster, "obstacle", "of the host's own", lack.what, look)
                found[cluster, lack.what] = replace(event, hint=lack.mend)
        if self._lacks is not None:
            for key in found.keys() - self._lacks:
                self._note(look, found[key])
        self._lacks = set(found)
