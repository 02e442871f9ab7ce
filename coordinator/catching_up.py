"""Hosts that were away get what they missed when they are back: the coordinator does it by itself.

What waits is in the journal: a new process goes on with it. Each cluster of which something waits is looked after by a
task, with a back-off: one that comes to nothing makes the next look later, up to LONGEST.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from coordinator import bringup, teardown
from coordinator.claims import Claims
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX, Journal
from coordinator.progress import Progress
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

log = logging.getLogger(__name__)
#: Seconds between two looks: at first, and at most.
SHORTEST, LONGEST = 2.0, 30.0
#: How much longer each pause is than the last: who is away for a moment is soon seen to be back.
GROWTH = 1.5
#: How often it is done by itself what is not seen to be there afterwards: a host that was cut off by it, too.
TRIES = 3
#: How long one look whether a host answers may take, in seconds.
KNOCK = 3.0


class CatchingUp:
    """The tasks of one coordinator. *claims* keep it from a cluster that somebody works on."""

    def __init__(self, fleet: Fleet, journal: Journal, claims: Claims) -> None:
        self._fleet = fleet
        self._journal = journal
        self._claims = claims
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_stopped = False
        #: How often in a row what was done in a cluster was not seen to be there.
        self._unseen: dict[str, int] = {}

    def look(self, again: str = "") -> None:
        """See what waits: when the process begins, and when somebody's work on cluster *again* has ended."""
        if self._is_stopped:
            return
        if again in self._tasks:
            self._tasks.pop(again).cancel()  # it waits already, maybe for long
        for name in self._journal.unfinished():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._follow(name), name=f"catch up {name}")

    async def stop(self) -> None:
        """End what is under way, and wait until it has written how it ended."""
        self._is_stopped = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, name: str) -> None:
        """Until nothing of cluster *name* waits."""
        pause = SHORTEST
        self._unseen.pop(name, None)
        while name in self._journal.unfinished():
            await asyncio.sleep(pause)
            before = self._journal.behind(name).keys()
            back = await self._find_back(name)
            # Nobody is left to ask where a process died between the last removal and the end of it.
            if back or not self._journal.holders(name):
                await self._claims.in_background(name, self._go_on(name, back))
            has_progress = bool(before - self._journal.behind(name).keys())
            pause = SHORTEST if has_progress else min(GROWTH * pause, LONGEST)
            if name in self._unseen:
                pause = LONGEST  # meanwhile each host takes back what nobody confirmed
        self._tasks.pop(name, None)

    async def _find_back(self, name: str) -> list[str]:
        """Who is behind, and answers."""
        addresses = self._journal.holders(name)
        holders = [holder for holder in self._journal.behind(name) or addresses if holder in addresses]
        answers = await asyncio.gather(*(self._answers(holder, addresses[holder]) for holder in holders))
        return [holder for holder, answered in zip(holders, answers, strict=True) if answered]

    async def _answers(self, holder: str, address: str) -> bool:
        client = self._fleet.natbox(address) if holder == NATBOX else self._fleet.agent(holder, address)
        try:
            async with asyncio.timeout(KNOCK):
                await client.probe()
        except (CaasError, TimeoutError):
            return False
        return True

    async def _go_on(self, name: str, back: list[str]) -> None:
        """Do what waits. A failure is told by `caas status`, with those who are *back* and the journal."""
        progress = Progress(name, self._journal, _log_event)
        try:
            await teardown.go_on(self._fleet, self._journal, name, progress)
            await bringup.catch_up(self._fleet, self._journal, name, progress)
            self._unseen.pop(name, None)
            log.info("%s: caught up; still behind: %s", name, ", ".join(self._journal.behind(name)) or "nobody")
        except CaasError as exc:
            log.warning("%s: not caught up: %s (%s)", name, exc, exc.hint)
            why = f"{exc.message} ({exc.hint})" if exc.hint else exc.message
            behind = self._journal.behind(name)
            rows = {holder: replace(row, why=why) if holder in back else row for holder, row in behind.items()}
            self._journal.save_behind(name, rows)
            self._count(name, exc)
        except Exception:
            log.exception("%s: not caught up", name)

    def _count(self, name: str, failure: CaasError) -> None:
        """What cuts a host off, or is never there, is not done over and over: then somebody has to look."""
        if failure.code is not Code.UNVERIFIED:
            return
        self._unseen[name] = self._unseen.get(name, 0) + 1
        record = self._journal.find(name)
        if self._unseen[name] == TRIES and record is not None:
            log.error("%s: given up after %d tries", name, TRIES)
            self._journal.save(replace(record, state="broken"))


def _log_event(event: pb.Event) -> None:
    if event.state in (pb.Event.FAILED, pb.Event.NOTE):
        log.info("%s", ": ".join(filter(None, (event.title, event.message))))
