"""The watch over the site's pair of NATBoxes: where the one that works fails, the other takes over (docs/adr/0012).

`decide` is pure: what follows from what was seen this time and the times before.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from dataclasses import dataclass, replace

from coordinator.claims import Claims
from coordinator.config.natbox_pair import NatBoxPair
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX
from coordinator.natbox_hand_over import (
    STANDBY,
    Box,
    Boxes,
    find_working,
    hand_over,
    look,
    make_alike,
    needs_telling,
    next_epoch,
    other_of,
    settle,
)
from coordinator.progress import Progress
from proto.errors import CaasError, Code

log = logging.getLogger(__name__)
LOOK_EVERY = 0.5
LOOK_TIMEOUT = 0.8
#: So many looks in a row without an answer, or with a link down, are a failure.
FAILED_LOOKS = 3
#: How long nothing is tried again that was refused.
PAUSE = 5.0
ALIKE_EVERY = 10.0


class Step(enum.Enum):
    """What the watch does next."""

    NOTHING = "nothing"
    SETTLE = "tell both who works"
    TAKE_OVER = "the standby takes over"
    HAND_OVER = "hand over as planned"


@dataclass(frozen=True, slots=True)
class Looks:
    """How many looks in a row found nobody who works, or one that could not carry packets."""

    in_vain: int = 0
    unfit: int = 0


def decide(looks: Looks, boxes: Boxes) -> tuple[Looks, Step]:
    """What *boxes* mean after what was seen before: the count goes on, and what is to be done."""
    working = find_working(boxes)
    roles = [box.role for box in boxes]
    if needs_telling(boxes):
        return Looks(), Step.SETTLE
    if working is None:
        looks = replace(looks, in_vain=looks.in_vain + 1, unfit=0)
        standing_by = [box for box in boxes if box.role == STANDBY and not box.unfit]
        # Two that are closed wait for nothing but to be told.
        ready = looks.in_vain >= FAILED_LOOKS or roles == [STANDBY, STANDBY]
        return looks, Step.TAKE_OVER if standing_by and ready else Step.NOTHING
    other = other_of(boxes, working)
    if working.unfit and other.role == STANDBY and not other.unfit:
        looks = Looks(unfit=looks.unfit + 1)
        return looks, Step.HAND_OVER if looks.unfit >= FAILED_LOOKS else Step.NOTHING
    return Looks(), Step.NOTHING


class Watch:
    """Looks until it is cancelled. Does nothing while somebody hands over by hand (*claims*)."""

    def __init__(self, fleet: Fleet, pair: NatBoxPair, progress: Progress, claims: Claims) -> None:
        self._fleet, self._pair, self._progress, self._claims = fleet, pair, progress, claims
        self._looks = Looks()
        self._paused_until = 0.0
        self._alike_at = 0.0

    async def run(self) -> None:
        """Look, decide, act; what fails is logged and tried again later."""
        while True:
            try:
                await self.look_once()
            except CaasError as exc:
                self._fail(exc)
            except Exception:
                self._paused_until = time.monotonic() + PAUSE
                log.exception("NATBox: the watch")
            await asyncio.sleep(LOOK_EVERY)

    def _fail(self, exc: CaasError) -> None:
        self._looks = Looks()
        if exc.code is not Code.BUSY:
            self._paused_until = time.monotonic() + PAUSE
            log.log(logging.WARNING if exc.code is Code.CONFLICT else logging.ERROR, "NATBox: %s (%s)", exc, exc.hint)

    async def look_once(self) -> Step:
        """One look and what follows from it."""
        boxes = await look(self._fleet, self._pair, timeout=LOOK_TIMEOUT)
        self._looks, step = decide(self._looks, boxes)
        if time.monotonic() < self._paused_until:
            return Step.NOTHING
        if step is Step.NOTHING:
            await self._make_alike(boxes)
            return step
        await self._claims.take(NATBOX, "natbox hand-over")
        try:
            await self._act(step, boxes)
        finally:
            self._claims.release(NATBOX)
        self._looks = Looks()
        return step

    async def _act(self, step: Step, boxes: Boxes) -> None:
        if step is Step.SETTLE:
            await settle(self._pair, boxes)
        elif step is Step.TAKE_OVER:
            await self._take_over(boxes)
        elif working := find_working(boxes):
            log.warning("NATBox %s: %s", working.address, "; ".join(working.unfit))
            await hand_over(self._fleet, self._pair, other_of(boxes, working).address, self._progress)

    async def _take_over(self, boxes: Boxes) -> None:
        box = _choose(boxes)
        away = other_of(boxes, box)
        title = f"{box.address} takes over: {away.address} {'does not answer' if away.failure else 'is closed, too'}"
        async with self._progress.step("natbox:take-over", title):
            done = await box.client.take_over(next_epoch(boxes), self._pair.shared, unless_alive=True)
        log.warning("NATBox %s, after %.2f s", title, done.seconds)

    async def _make_alike(self, boxes: Boxes) -> None:
        """The standby gets what it missed while it was away."""
        working = find_working(boxes)
        if working is None or working.standing is None or time.monotonic() < self._alike_at:
            return
        other = other_of(boxes, working)
        if other.standing and dict(other.standing.generations) != dict(working.standing.generations):
            sent = await make_alike(working, other)
            log.info("NATBox %s: %d tables made as %s has them", other.address, sent, working.address)
        self._alike_at = time.monotonic() + ALIKE_EVERY


def _choose(boxes: Boxes) -> Box:
    """Of those that could take over the one that was told last; the first where both were."""
    return max((box for box in boxes if box.role == STANDBY and not box.unfit), key=lambda box: box.epoch)
