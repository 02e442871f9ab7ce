"""Drift: what others did to ours, who where it can be told, and how long an object is left alone. Pure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

#: How many events are kept: of a fight over one object, a few hours; a reader of `caas status` is shown the last.
KEPT = 256
#: An object that was mended so often within so many seconds is fought over: then the wait doubles, up to the longest.
MENDS_MAX, WITHIN = 5, 60.0
FIRST_WAIT, LONGEST_WAIT = 4.0, 64.0
#: Which of the kernel's messages may have told of a change in a thing of that kind.
_TOLD_BY = {
    "address": ("address", "link"),
    "route": ("route", "link", "address"),
    "rule": ("rule",),
    "masquerade": ("nft",),
    "forward": ("nft", "link"),
    "obstacle": ("nft",),
}
_LINK = ("link", "filter", "nft")


@dataclass(frozen=True, slots=True)
class Touch:
    """The kernel said that something changed: link, address, route, rule, filter or nft; "lost" where its messages came
    too fast to be kept. `by` is who asked for it, as people read it; "" where that cannot be told."""

    kind: str
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What was found of one object, and what was done about it. `time` is in seconds since 1970.

    `cluster` is "" for what belongs to the host. `hint` is what mends it where we do not.
    """

    time: float
    cluster: str
    kind: str
    name: str
    found: str
    mended: bool
    by: str = ""
    hint: str = ""

    def __str__(self) -> str:
        whom = f", by {self.by}" if self.by else ""
        return f"{self.kind} {self.name}: {self.found}{whom}: {'mended' if self.mended else 'not mended'}"


class DriftLog:
    """The last events. Safe for several threads."""

    def __init__(self) -> None:
        self._events: deque[Drift] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def add(self, event: Drift) -> None:
        """The same again within a minute is counted as one: the newer stays."""
        with self._lock:
            for known in list(self._events):
                if event.time - known.time < WITHIN and replace(known, time=event.time, by=event.by) == event:
                    self._events.remove(known)
            self._events.append(event)

    def last(self, cluster: str = "") -> Sequence[Drift]:
        """Oldest first; those of *cluster* and of the host, or all."""
        with self._lock:
            return [event for event in self._events if not cluster or event.cluster in ("", cluster)]


@dataclass(slots=True)
class _Fight:
    times: list[float]
    level: int = 0
    until: float = 0.0


class Patience:
    """How long an object is left alone that somebody keeps changing. Times are those of the caller's clock."""

    def __init__(self) -> None:
        self._fights: dict[tuple[str, str], _Fight] = {}

    def wait(self, kind: str, name: str, now: float) -> float:
        """Seconds until it may be mended again; 0 for now."""
        fight = self._fights.get((kind, name))
        return max(0.0, fight.until - now) if fight else 0.0

    def tried(self, kind: str, name: str, now: float) -> float:
        """It was mended, or that failed. Returns how long it is left alone from now on; 0 where nobody fights."""
        fight = self._fights.setdefault((kind, name), _Fight([]))
        # Left in peace for longer than we ever wait: it is over.
        if fight.times and now - fight.times[-1] > LONGEST_WAIT + WITHIN:
            fight.level, fight.times = 0, []
        fight.times = [*(time for time in fight.times if now - time < WITHIN), now]
        if fight.level or len(fight.times) >= MENDS_MAX:
            wait: float = min(LONGEST_WAIT, FIRST_WAIT * 2**fight.level)
            fight.level, fight.until = fight.level + 1, now + wait
            return wait
        return 0.0


def find_culprits(kind: str, touches: Iterable[Touch]) -> str:
    """Who may have changed a thing of *kind*, of those that *touches* name; "" where nobody is named."""
    told_by = _TOLD_BY.get(kind, _LINK)
    return ", ".join(dict.fromkeys(touch.by for touch in touches if touch.kind in told_by and touch.by))
