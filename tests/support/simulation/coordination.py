"""The coordinator of a simulation: its process may die before any write of its journal, and at any await."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

from coordinator import bringup, teardown
from coordinator.catching_up import CatchingUp
from coordinator.claims import Claims
from coordinator.config import Surroundings, load_bytes
from coordinator.fleet import AgentClient, NatBoxClient
from coordinator.journal import Journal
from coordinator.progress import Progress
from coordinator.reading import Reading
from tests.support.simulation.clock import Died
from tests.support.simulation.machines import Machine
from tests.support.simulation.network import Channel, Weather

_CHANGING = ("INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT")


class _Database:
    """A journal's connection, whose writes a dead process does not make."""

    def __init__(self, inner: Any, before_write: Callable[[str], None]) -> None:
        self._inner, self._before_write = inner, before_write

    def execute(self, sql: str, *args: Any) -> Any:
        if sql.startswith(_CHANGING):
            self._before_write(sql)
        return self._inner.execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> Any:
        self._before_write(sql)
        return self._inner.executemany(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class SimulatedFleet:
    """coordinator.fleet.Fleet over the simulated network."""

    def __init__(self, machines: dict[str, Machine], weather: Weather, seed: str, tell: Callable[[str], None]) -> None:
        self._channels = {
            name: Channel(machine, weather, Random(f"{seed}/{name}"), tell) for name, machine in machines.items()
        }

    def agent(self, host: str, address: str) -> AgentClient:
        return AgentClient(host, self._channels[host])  # type: ignore[arg-type]

    def natbox(self, address: str) -> NatBoxClient:
        return NatBoxClient(self._channels["natbox"])  # type: ignore[arg-type]

    def natbox_names(self, address: str) -> tuple[str, ...]:
        return (address,)


class Coordinator:
    """One process of it, over the journal at *path*."""

    def __init__(self, path: Path, fleet: SimulatedFleet, tell: Callable[[str], None]) -> None:
        self.journal = Journal(path)
        self._connection = self.journal._db
        self.journal._db = _Database(self._connection, self._before_write)  # type: ignore[assignment]
        self._fleet, self._tell = fleet, tell
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_running = True
        self._claims = Claims()
        self._catching_up = CatchingUp(fleet, self.journal, self._claims)  # type: ignore[arg-type]
        #: Writes left until it dies; None: never.
        self.fuse: int | None = None

    def start(self) -> None:
        """Go on with what waits for hosts that were away."""
        self._catching_up.look()

    def _before_write(self, sql: str) -> None:
        if self.is_running and self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self._tell(f"coordinator: killed before {' '.join(sql.split()[:3])}")
                self.kill()
        if not self.is_running:
            raise Died

    def kill(self) -> None:
        """kill -9."""
        self.is_running = False
        self._catching_up._is_stopped = True
        for task in (*self._tasks, *self._catching_up._tasks.values()):
            task.cancel()

    async def close(self) -> None:
        """Let go of what a dead process would not have any more."""
        self.is_running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._catching_up.stop()
        self._connection.close()

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """*work* as a task of this process. Raises Died where that dies first."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # it may be that nobody asks
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()  # interrupted: the process goes on
                await asyncio.wait({task})
            self._tasks.discard(task)
        if not self.is_running:
            raise Died
        return task.result()

    async def up(self, text: str) -> dict[str, Any]:
        """`caas up FILE --remove --restart`."""
        reading = read(text)
        name = reading.file.name
        progress = Progress(name, self.journal, _ignore, run="run")
        work = bringup.up(self._fleet, self.journal, reading, progress, remove=True, restart=True)  # type: ignore[arg-type]
        return await self._alone(name, "up", work)

    async def down(self, name: str, text: str = "") -> dict[str, Any]:
        """`caas down NAME`, or `caas down FILE`."""
        progress = Progress(name, self.journal, _ignore, run="run")
        file = read(text).file if text else None
        work = teardown.down(self._fleet, self.journal, name, progress, file)  # type: ignore[arg-type]
        return await self._alone(name, "down", work)

    async def _alone(self, name: str, what: str, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """As coordinator.rpc.service does it."""
        try:
            await self._claims.take(name, what)
        except BaseException:
            work.close()
            raise
        try:
            return await work
        finally:
            self._claims.release(name)
            if self.is_running:
                self._catching_up.look(name)


@functools.lru_cache(1000)
def read(text: str) -> Reading:
    """A cluster file without a site."""
    surroundings = Surroundings()
    file = load_bytes(text.encode(), file="cluster.yaml", surroundings=surroundings)
    return Reading(file=file, content=text.encode(), file_name="cluster.yaml", surroundings=surroundings)


def _ignore(_: object) -> None:
    return None
