"""Changes of the network that wait to be confirmed, and for how long yet.

What waits is on the disk before the change begins: neither a crash nor a reboot loses it. There the time counts on
from the beginning of the change; in a process that lives, from its end, or from the last call that held it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from proto.errors import CaasError, Code, invalid
from proto.model import ClusterHost

log = logging.getLogger(__name__)
#: The longest that a change may wait, in seconds.
WITHIN_MAX = 3600.0
#: Seconds until a change that could not be taken back is taken back again.
RETRY = 5.0
#: So many seconds before its time something is due: who calls may be early by a rounding, and does not call again.
EARLY = 0.05


class Clock(Protocol):
    """The machine's time, in seconds."""

    def boot(self) -> str:
        """What no other boot of this machine has."""

    def boot_seconds(self) -> float:
        """Since it booted; goes on while the machine sleeps, and nobody sets it."""

    def wall_seconds(self) -> float:
        """Since 1970, as somebody has set it."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call *function* after *seconds*, in a thread of its own. Not after the process has ended."""


class MachineClock:
    """The Clock of the machine that this process runs on."""

    def boot(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def boot_seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_seconds(self) -> float:
        return time.time()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, function)
        timer.daemon = True
        timer.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """A change to *generation* that waits, at most *within* seconds; `before` it was so, or there was nothing.

    Of several changes without a Confirm in between, `before` is from before the first. The last three say when the
    last one began (Clock).
    """

    cluster: str
    generation: int
    within: float
    before: ClusterHost | None
    boot: str
    boot_seconds: float
    wall_seconds: float


class Kept(Protocol):
    """Where they outlive the process (agent.saved)."""

    def load(self) -> dict[str, Unconfirmed]: ...
    def save(self, state: Unconfirmed) -> None: ...
    def forget(self, cluster: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """`due`, in boot seconds, is None while the change is under way: nobody can have confirmed it."""

    change: Unconfirmed
    due: float | None


class Confirming:
    """What waits, by cluster. Safe for several threads: to confirm needs no turn among the host's changes.

    *on_due* is called when something may be due: see `claim`.
    """

    def __init__(self, kept: Kept, clock: Clock, on_due: Callable[[], None]) -> None:
        self._kept, self._clock, self._on_due = kept, clock, on_due
        self._lock = threading.Lock()
        self._void: set[str] = set()
        self._waiting = {name: Waiting(change, self._due_of(change)) for name, change in kept.load().items()}

    def resume(self, states: Mapping[str, ClusterHost]) -> None:
        """After a start: let go of what waits no more, given the *states* in force, and count on for the rest."""
        with self._lock:
            for cluster, waiting in list(self._waiting.items()):
                change = still_waiting(waiting.change, states.get(cluster))
                if change is None:
                    self._forget(cluster)
                else:
                    self._waiting[cluster] = Waiting(change, waiting.due)
            self._call_when_due(self._waiting.values())

    def left(self) -> dict[str, float]:
        """Seconds until each that waits is taken back."""
        now = self._clock.boot_seconds()
        with self._lock:
            return {name: max(0.0, one.due - now) for name, one in self._waiting.items() if one.due is not None}

    def waiting(self, cluster: str) -> Waiting | None:
        """What waits of *cluster*: for `put_back`."""
        with self._lock:
            return self._waiting.get(cluster)

    def begin(self, desired: ClusterHost, before: ClusterHost | None, within: float) -> None:
        """A change to *desired*, from *before*, is about to begin."""
        with self._lock:
            earlier = self._waiting.get(desired.cluster)
            if earlier is not None:
                before = earlier.change.before
            change = Unconfirmed(
                cluster=desired.cluster,
                generation=desired.generation,
                within=within,
                before=before,
                boot=self._clock.boot(),
                boot_seconds=self._clock.boot_seconds(),
                wall_seconds=self._clock.wall_seconds(),
            )
            try:
                self._kept.save(change)
            except Exception:
                self._put_back(desired.cluster, earlier)  # it may have been written all the same
                raise
            self._waiting[desired.cluster] = Waiting(change, None)

    def arm(self, cluster: str, generation: int) -> None:
        """The change to *generation* is done: from now on it waits. One that is older waits no more."""
        with self._lock:
            if (waiting := self._waiting.get(cluster)) is None:
                return
            if waiting.change.generation < generation:
                self._forget(cluster)
            elif waiting.due is None:
                self._wait_anew(cluster, waiting.change)

    def put_back(self, cluster: str, earlier: Waiting | None) -> None:
        """The change failed, and was undone: *earlier* is what waits, unless it has been confirmed meanwhile."""
        with self._lock:
            if (waiting := self._waiting.get(cluster)) is not None and waiting.due is None:
                self._put_back(cluster, earlier)

    def confirm(self, cluster: str, generation: int, *, hold: bool) -> bool:
        """Whether the change to *generation* waited: it does no more, or, to *hold* it, its time begins anew.

        STALE where another one waits, BUSY where it is still under way.
        """
        with self._lock:
            if (waiting := self._waiting.get(cluster)) is None:
                return False
            found = waiting.change.generation
            if found != generation:
                raise CaasError(Code.STALE, f"{cluster}: generation {found} waits to be confirmed, not {generation}")
            if waiting.due is None:
                raise CaasError(Code.BUSY, f"{cluster}: the change to generation {generation} is under way")
            if hold:
                self._wait_anew(cluster, waiting.change)
            else:
                self._kept.forget(cluster)
                del self._waiting[cluster]
            return True

    def due(self) -> list[str]:
        """Whose time is over."""
        now = self._clock.boot_seconds()
        with self._lock:
            void, self._void = self._void - self._waiting.keys(), set()
            for cluster in void:
                self._remove(cluster)
            return [name for name, one in self._waiting.items() if one.due is not None and one.due <= now + EARLY]

    def claim(self, cluster: str) -> Unconfirmed | None:
        """What is to be taken back, where that is still due: from now on nobody can confirm it."""
        now = self._clock.boot_seconds()
        with self._lock:
            waiting = self._waiting.get(cluster)
            if waiting is None or waiting.due is None or waiting.due > now + EARLY:
                return None
            self._waiting[cluster] = Waiting(waiting.change, None)
            return waiting.change

    def again(self, cluster: str) -> None:
        """What was claimed could not be taken back: it is due again after a while."""
        with self._lock:
            if waiting := self._waiting.get(cluster):
                self._waiting[cluster] = Waiting(waiting.change, self._clock.boot_seconds() + RETRY)
        self._clock.call_later(RETRY, self._on_due)

    def drop(self, cluster: str) -> None:
        """Nothing of *cluster* waits any more: what is in force says so."""
        with self._lock:
            if cluster in self._waiting:
                self._forget(cluster)

    def end(self, cluster: str) -> None:
        """As `drop`, and nothing of it is left on the disk; raises where that cannot be."""
        with self._lock:
            if cluster in self._waiting or cluster in self._void:
                self._kept.forget(cluster)
                self._waiting.pop(cluster, None)
                self._void.discard(cluster)

    def _put_back(self, cluster: str, earlier: Waiting | None) -> None:
        """Best effort: a failure is logged, and never replaces the first error."""
        self._waiting.pop(cluster, None)
        if earlier is None:
            self._remove(cluster)
            return
        self._waiting[cluster] = earlier
        self._call_when_due([earlier])
        try:
            self._kept.save(earlier.change)
        except Exception:
            log.exception("%s: what waits to be confirmed is not saved again", cluster)

    def _forget(self, cluster: str) -> None:
        del self._waiting[cluster]
        self._remove(cluster)

    def _remove(self, cluster: str) -> None:
        """An entry on the disk that cannot be removed is void, and is removed later."""
        try:
            self._kept.forget(cluster)
        except (CaasError, OSError) as exc:
            log.error("%s: what waited to be confirmed is not forgotten: %s", cluster, exc)
            self._void.add(cluster)
            self._clock.call_later(RETRY, self._on_due)

    def _wait_anew(self, cluster: str, change: Unconfirmed) -> None:
        waiting = Waiting(change, self._clock.boot_seconds() + change.within)
        self._waiting[cluster] = waiting
        self._call_when_due([waiting])

    def _call_when_due(self, waiting: Iterable[Waiting]) -> None:
        now = self._clock.boot_seconds()
        for one in waiting:
            if one.due is not None:
                self._clock.call_later(max(0.0, one.due - now), self._on_due)

    def _due_of(self, change: Unconfirmed) -> float:
        """After a start. A wall clock that was set back makes nobody wait for longer than *within*."""
        if change.boot == self._clock.boot():
            passed = self._clock.boot_seconds() - change.boot_seconds
        else:
            passed = self._clock.wall_seconds() - change.wall_seconds
        return self._clock.boot_seconds() + change.within - max(0.0, passed)


def check_within(seconds: float) -> float:
    """Return *seconds* if a change may wait so long (0: it does not wait), else raise INVALID."""
    if not 0 <= seconds <= WITHIN_MAX:
        raise invalid(f"confirm_within {seconds}: it must be within 0..{WITHIN_MAX:.0f} seconds")
    return seconds


def still_waiting(change: Unconfirmed, state: ClusterHost | None) -> Unconfirmed | None:
    """*change* as it waits where *state* is in force; None where it does not.

    It was saved before its state. Where it is the newer one the process died in between: then it waits for what was in
    force before it, if that waited itself.
    """
    if state is None or state.taken_back or change.generation < state.generation or change.before == state:
        return None
    return replace(change, generation=state.generation)
