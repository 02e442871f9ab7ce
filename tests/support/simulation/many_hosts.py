"""Many hosts at once: clusters of forty hosts each, agents that die in the middle of it, and the same command again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from proto.errors import CaasError
from tests.support.fleet import FakeFleet
from tests.support.simulation import judge
from tests.support.simulation.clock import VirtualLoop
from tests.support.simulation.clusters import Draft, Spec
from tests.support.simulation.coordination import Coordinator, SimulatedFleet
from tests.support.simulation.machines import HostMachine, Inside
from tests.support.simulation.network import Weather
from tests.support.simulation.run import MEMORY, surroundings

#: Hosts of one cluster, and every how many an agent dies in its first change.
TOGETHER, DYING = 40, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Converged:
    """What it took: seconds of wall time until all clusters were as wanted, and how many agents died on the way."""

    hosts: int
    seconds: float
    died: int
    wrong: tuple[str, ...]


def converge(number: int) -> Converged:
    """Bring up clusters on *number* hosts, at once; the agents that died are started, and it is done again."""
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="caas-simulation-", dir=where) as folder, surroundings(False):
        loop = VirtualLoop()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(_converge(number, Path(folder)))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _make_drafts(number: int) -> list[Draft]:
    names = [f"host{one}" for one in range(1, number + 1)]
    drafts = []
    for index, begin in enumerate(range(0, number, TOGETHER)):
        hosts = tuple(names[begin : begin + TOGETHER])
        pool = {f"c{one}": Spec(host=host, network="n0", number=0) for one, host in enumerate(hosts)}
        draft = Draft(
            name=f"k{index}",
            index=index,
            hosts=hosts,
            vids={"n0": 100 + index},
            containers=pool,
            has_natbox=False,
            pool=pool,
        )
        drafts.append(draft)
    return drafts


async def _converge(number: int, folder: Path) -> Converged:
    inside = Inside(lambda: FakeFleet(folder))
    drafts = _make_drafts(number)
    hosts = {
        name: HostMachine(name, Random(name), _ignore, [], inside=inside) for draft in drafts for name in draft.hosts
    }
    for machine in hosts.values():
        machine.start()
    coordinator = Coordinator(folder / "journal.db", SimulatedFleet(dict(hosts), Weather(), "many", _ignore), _ignore)
    for machine in list(hosts.values())[::DYING]:
        machine.fuse = machine.random.randint(0, 5)
    began = time.monotonic()

    async def up(draft: Draft) -> None:
        await coordinator.run(coordinator.up(draft.text()))

    for outcome in await asyncio.gather(*map(up, drafts), return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, CaasError):
            raise outcome
    died = [machine for machine in hosts.values() if not machine.is_running]
    for machine in died:
        machine.start()
    await asyncio.gather(*map(up, drafts))
    seconds = time.monotonic() - began
    wrong = [line for draft in drafts for line in judge.find_unlike(draft, {name: hosts[name] for name in draft.hosts})]
    wrong += judge.find_doubles(hosts.values())
    await coordinator.close()
    return Converged(hosts=number, seconds=seconds, died=len(died), wrong=tuple(wrong))


def _ignore(_: str) -> None:
    return None
