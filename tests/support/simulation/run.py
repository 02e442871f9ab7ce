"""One seed: people bring clusters up, change and remove them while everything breaks; then all heals, and is judged."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest import mock

import agent.core.apply
import agent.rpc.service
import natbox.service
from coordinator import bringup, preparing
from coordinator.confirming import WITHIN
from coordinator.fleet import CHANGE
from coordinator.keepsake import KeepSecrets
from coordinator.known import keeper_of
from proto.errors import CaasError
from tests.support.fleet import FakeFleet
from tests.support.simulation import judge
from tests.support.simulation.clock import Died, VirtualLoop
from tests.support.simulation.clusters import HOSTS_MAX, Draft, change, collide, make_draft
from tests.support.simulation.coordination import Coordinator, SimulatedFleet
from tests.support.simulation.machines import GatewayMachine, HostMachine, InlinePool, Inside, Machine
from tests.support.simulation.network import LATE, Weather

T = TypeVar("T")
#: Virtual seconds in which things break.
STORM = 90.0
#: After so many virtual seconds nothing waits any more for a host that is back: a lost call has been given up, and the
#: longest pause is over.
CAUGHT_UP = CHANGE + 100.0
MEMORY = Path("/dev/shm")
BREAKAGES = (
    "kill",
    "fuse",
    "fuse",
    "failing",
    "power",
    "away",
    "coordinator",
    "coordinator fuse",
    "cut off",
    "orphaned",
)


@dataclass(slots=True)
class Outcome:
    """How one seed ended. `digest` is of the whole trace: the same for the same seed."""

    seed: int
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


class Simulation:
    """All of one seed."""

    def __init__(self, seed: int, folder: Path, loop: VirtualLoop) -> None:
        self.random = Random(f"simulation {seed}")
        self.outcome = Outcome(seed=seed)
        self._loop, self._folder, self._journals = loop, folder, 0
        random, names = self.random, [f"host{number}" for number in range(1, self.random.randint(1, HOSTS_MAX) + 1)]
        inside = Inside(lambda: FakeFleet(folder))
        around = (self.tell, self.outcome.violations)
        self.hosts = {name: HostMachine(name, Random(f"{seed}/{name}"), *around, inside=inside) for name in names}
        self.natbox = GatewayMachine("natbox", Random(f"{seed}/natbox"), *around) if random.random() < 0.4 else None
        self.machines: dict[str, Machine] = {**self.hosts, **({"natbox": self.natbox} if self.natbox else {})}
        self.weather = Weather(
            lost=random.choice((0, 0.02, 0.1)),
            answer_lost=random.choice((0, 0.02, 0.1)),
            late=random.choice((0, 0.02, 0.05)),
            twice=random.choice((0, 0.02, 0.05)),
            slow=random.choice((0, 0.1)),
        )
        self._fleet = SimulatedFleet(self.machines, self.weather, str(seed), self.tell)
        self.journal_may_go = random.random() < 0.2
        self.drafts = [
            make_draft(random, f"k{index}", index, names, has_natbox=self.natbox is not None)
            for index in range(random.choice((1, 1, 2, 2, 3)))
        ]
        self.collided = self._journals_lost = False
        #: What each cluster is to be, since its last command was accepted; None: nothing. Without one: who knows.
        self.accepted: dict[str, Draft | None] = {}
        self.coordinator = self._make_coordinator()

    def tell(self, line: str) -> None:
        self.outcome.trace.append(f"{self._loop.now:9.3f} {line}")

    def _make_coordinator(self) -> Coordinator:
        return Coordinator(self._folder / f"journal{self._journals}.db", self._fleet, self.tell)

    async def restart_coordinator(self, *, journal_lost: bool = False) -> None:
        """A new process; with the old one's journal, or with none."""
        await self.coordinator.close()
        self._journals += journal_lost
        self.coordinator = self._make_coordinator()
        self.coordinator.start()
        self._journals_lost |= journal_lost
        self.tell(f"coordinator: a new one{', without a journal' if journal_lost else ''}")

    async def run(self) -> None:
        for machine in self.machines.values():
            machine.start()
        try:
            await asyncio.gather(self._storm(), *(self._user(number) for number in range(len(self.drafts))))
            await self._heal()
            if self.random.random() < 0.4:
                await self._absence()
            await self._judge()
        finally:
            await self.coordinator.close()
            await _cancel_all()
        self.outcome.seconds = self._loop.now

    async def _user(self, number: int) -> None:
        """Somebody who wants one cluster, and changes it."""
        random = Random(f"{self.outcome.seed}/user {number}")
        name = self.drafts[number].name
        for _ in range(random.randint(1, 4)):
            await asyncio.sleep(random.uniform(0, STORM / 5))
            if random.random() < 0.6:
                self.drafts[number] = change(random, self.drafts[number], may_leave=not self.journal_may_go)
            draft = self.drafts[number]
            if random.random() < 0.1 and len(self.drafts) > 1:
                draft = collide(random, draft, self.drafts[number - 1])
                self.collided = True
            patience = random.uniform(0.05, 5) if random.random() < 0.15 else 700.0
            self.accepted.pop(name, None)
            wanted: Draft | None
            if random.random() < 0.2:
                failure = await self._try(f"down {name}", lambda name=name: self.coordinator.down(name), patience)  # type: ignore[misc]
                wanted = None
            else:
                text = draft.text()
                failure = await self._try(f"up {name}", lambda text=text: self.coordinator.up(text), patience)  # type: ignore[misc]
                wanted = draft
            if failure is None:
                self.accepted[name] = wanted

    async def _try(self, what: str, work: Callable[[], Any], patience: float) -> BaseException | None:
        """A command, which may fail: somebody interrupts it after *patience* seconds."""
        self.tell(what)
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(patience):
                await self.coordinator.run(work())
        except (CaasError, TimeoutError, Died) as exc:
            failure = exc
        self.tell(f"{what}: {'done' if failure is None else _line(failure)}")
        return failure

    async def _storm(self) -> None:
        """What breaks, until it ends."""
        random = Random(f"{self.outcome.seed}/storm")
        for _ in range(random.randint(0, 10)):
            await asyncio.sleep(random.uniform(0, STORM / 8))
            machine = random.choice(list(self.machines.values()))
            match random.choice(BREAKAGES):
                case "kill":
                    machine.kill()
                    self.tell(f"{machine.name}: killed")
                case "fuse":
                    machine.fuse = random.randint(0, 12)
                case "failing":
                    machine.failing = random.randint(0, 12)
                case "power":
                    machine.lose_power()
                case "away":
                    machine.away = not machine.away
                    self.tell(f"{machine.name}: {'away' if machine.away else 'back'}")
                case "coordinator":
                    self.coordinator.kill()
                case "coordinator fuse":
                    self.coordinator.fuse = random.randint(0, 30)
                case "cut off" if isinstance(machine, HostMachine):
                    machine.after_apply = partial(self._cut_off, machine, random.uniform(5, 2 * LATE))
                case "orphaned" if isinstance(machine, HostMachine):
                    machine.after_apply = self._orphan
            await asyncio.sleep(random.uniform(0, STORM / 8))
            for one in self.machines.values():
                one.start()
            if not self.coordinator.is_running:
                await self.restart_coordinator(journal_lost=self.journal_may_go and random.random() < 0.3)

    def _cut_off(self, machine: Machine, seconds: float) -> None:
        """What was just done keeps everybody away from it."""
        machine.away = True
        self.tell(f"{machine.name}: cut off by a change")

        def come_back() -> None:
            machine.away = False

        self._loop.call_later(seconds, come_back)

    def _orphan(self) -> None:
        """The coordinator dies between a change and its confirmation."""
        if self.coordinator.is_running:
            self.tell("coordinator: killed after a change")
            self.coordinator.kill()

    async def _heal(self) -> None:
        """The network is whole, everybody is there and stays there."""
        self.tell("all heals")
        self.weather.become(Weather())
        restarted: set[str] = set()
        for machine in self.machines.values():
            machine.fuse = machine.failing = None
            machine.away = False
            if isinstance(machine, HostMachine):
                machine.after_apply = None
            if how := self.random.choice(("", "kill", "power")):
                machine.lose_power() if how == "power" else machine.kill()
                restarted.add(machine.name)
            machine.start()
        found = judge.find_not_restored(host for name, host in self.hosts.items() if name in restarted)
        self._blame(found, "after a restart")
        self.coordinator.fuse = None
        if not self.coordinator.is_running:
            await self.restart_coordinator()
        if self.random.random() < 0.5:
            await asyncio.sleep(LATE)
        elif self.random.random() < 0.5:
            await asyncio.sleep(LATE + WITHIN + 1)
            self._blame(judge.find_unconfirmed(self.hosts.values()), "long after all has healed")
            if not self.collided:  # what another has is not taken from it
                self._blame(judge.find_wrongly_taken_back(self.hosts.values()), "long after all has healed")
        if self.random.random() < 0.5:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Nobody says anything: what was accepted while hosts were away is there after a while."""
        await asyncio.sleep(CAUGHT_UP)
        for name, draft in self.accepted.items():
            if self.collided or self._journals_lost:
                continue  # what another has stays, and what was forgotten with a journal
            record = self.coordinator.journal.find(name)
            if record and record.state == "broken":
                continue  # a host was cut off when the coordinator went on: it does not try that again
            self._blame(judge.find_unlike(draft, self.hosts) if draft else [], f"{name}: not caught up")
            if draft is None:
                left = [*judge.find_of(name, self.hosts.values()), *self.coordinator.journal.holders(name)]
                self._blame(left, f"{name}: not caught up with its removal")
            if name in self.coordinator.journal.unfinished():
                behind = self.coordinator.journal.behind(name)
                self._blame([f"waits: {behind}"], name)

    async def _absence(self) -> None:
        """Some are away, and every change is accepted all the same; then they are back, and nobody says anything."""
        if self.collided:
            await self._make_way()
        for draft in self.drafts:
            await self._follow(draft, await self._up(draft))
        random = self.random
        gone = random.sample(sorted(self.machines), random.randint(1, len(self.machines)))
        for name in gone:
            self.machines[name].away = True
        self.tell(f"away: {', '.join(gone)}")
        for number, draft in enumerate(self.drafts):
            if random.random() < 0.3:
                await self._must(f"down {draft.name}", lambda name=draft.name: self.coordinator.down(name))  # type: ignore[misc]
                self.accepted[draft.name] = None
                continue
            self.drafts[number] = draft = change(random, draft, may_leave=not self.journal_may_go)
            await self._must(f"up {draft.name}", lambda draft=draft: self.coordinator.up(draft.text()))  # type: ignore[misc]
            self.accepted[draft.name] = draft
        if random.random() < 0.3:
            self.coordinator.kill()
            await self.restart_coordinator()
        for name in gone:
            machine = self.machines[name]
            if random.random() < 0.3:
                machine.lose_power()
            machine.away = False
            machine.start()
        self.collided = self._journals_lost = False
        self.tell("all are back")
        await self._catch_up()

    async def _judge(self) -> None:
        """The last command of each cluster, once: it has to work. Then everything is removed."""
        if self.collided:
            await self._make_way()
        for draft, failure in await self._up_all():
            await self._follow(draft, failure)
        # Whatever is still on its way: it comes now, or after the last removal. Without a journal nobody knows of it.
        if self.journal_may_go or self.random.random() < 0.5:
            await asyncio.sleep(LATE + 1)
        for draft in self.drafts:
            self._blame(judge.find_unlike(draft, self.hosts), f"{draft.name} after up")
        self._blame(judge.find_doubles(self.hosts.values()), "after up")
        self._blame(judge.find_unconfirmed(self.hosts.values()), "after up")
        self._blame(judge.find_taken_back(self.hosts.values()), "after up")
        for draft in self.drafts:
            writes = self._writes()
            await self._must(f"second up {draft.name}", lambda draft=draft: self.coordinator.up(draft.text()))  # type: ignore[misc]
            if self._writes() != writes:
                self._blame([f"{self._writes() - writes} writes"], f"{draft.name}: second up")
        await self._all([self._remove(draft) for draft in self.drafts])
        await asyncio.sleep(LATE + 1)
        self._blame(judge.find_left(self.hosts.values(), self.natbox), "after down")

    async def _up(self, draft: Draft) -> BaseException | None:
        return await self._try(f"last up {draft.name}", lambda: self.coordinator.up(draft.text()), 700)

    async def _up_all(self) -> list[tuple[Draft, BaseException | None]]:
        """All clusters at once, and how each ended."""
        failures = await self._all([self._up(draft) for draft in self.drafts])
        return list(zip(self.drafts, failures, strict=True))

    async def _make_way(self) -> None:
        """What one cluster has of another's goes first: till then that one cannot be up."""
        for draft, failure in await self._up_all():
            await self._down_where_told(draft, failure)

    async def _down_where_told(self, draft: Draft, failure: BaseException | None) -> bool:
        """Whether the *failure* says so."""
        if not (isinstance(failure, CaasError) and "caas down FILE" in failure.hint):
            return False
        await self._must(f"down {draft.name}", lambda: self.coordinator.down(draft.name, draft.text()))
        return True

    async def _follow(self, draft: Draft, failure: BaseException | None) -> None:
        """Do what the *failure* says, where it is one that may be."""
        if await self._down_where_told(draft, failure):
            failure = await self._up(draft)
        if isinstance(failure, CaasError) and "taken back" in failure.message:  # since it was looked at
            failure = await self._up(draft)
        if failure is not None:
            self._blame([_line(failure)], f"last up {draft.name}")

    async def _remove(self, draft: Draft) -> None:
        text = draft.text() if self.random.random() < 0.5 else ""
        await self._must(f"last down {draft.name}", lambda: self.coordinator.down(draft.name, text))

    async def _must(self, what: str, work: Callable[[], Any]) -> None:
        if (failure := await self._try(what, work, 700)) is not None:
            self._blame([_line(failure)], what)

    async def _all(self, work: Sequence[Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*work))

    def _blame(self, lines: Sequence[str], when: str) -> None:
        for line in lines:
            self.tell(f"VIOLATION {when}: {line}")
        self.outcome.violations.extend(f"{when}: {line}" for line in lines)

    def _writes(self) -> int:
        doors = [door for host in self.hosts.values() for door in (host.kernel, host.containers)]
        return sum(door.writes for door in doors) + (self.natbox.door.writes if self.natbox else 0)


def run_seed(seed: int, *, with_nova: bool | None = None, weather: Weather | None = None) -> Outcome:
    """Play *seed*: with nova's steps in every eighth, or as *with_nova* says; in its own weather, or in *weather*.

    Sets of names have their order from PYTHONHASHSEED: the same seed is the same run where that is the same.
    """
    has_nova = seed % 8 == 0 if with_nova is None else with_nova
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="caas-simulation-", dir=where) as folder, surroundings(has_nova):
        loop = VirtualLoop()
        asyncio.set_event_loop(loop)
        simulation = Simulation(seed, Path(folder), loop)
        if weather is not None:
            simulation.weather.become(weather)
        try:
            loop.run_until_complete(simulation.run())
        except Exception as exc:
            logging.getLogger(__name__).exception("seed %d", seed)
            simulation.outcome.violations.append(f"the simulation itself: {exc!r}")
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    return simulation.outcome


@contextlib.contextmanager
def surroundings(has_nova: bool) -> Iterator[None]:
    """No threads, no look at this machine, what is logged kept out; nova's steps only where they are asked for."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(agent.core.apply, "ThreadPoolExecutor", InlinePool))
        stack.enter_context(mock.patch.object(agent.rpc.service, "version", return_value="0"))
        stack.enter_context(mock.patch.object(natbox.service, "version", return_value="0"))
        stack.enter_context(mock.patch.object(agent.rpc.service, "read_nameservers", tuple))
        stack.enter_context(mock.patch.object(agent.rpc.service, "_memory_available", return_value=1 << 34))
        if not has_nova:
            stack.enter_context(mock.patch.object(preparing, "make_cluster_steps", _secrets_only))
            stack.enter_context(mock.patch.object(bringup, "nova_status", _no_nova))
        if gc.isenabled():  # most of what it looks at lives on: a third of the time
            gc.disable()
            stack.callback(gc.enable)
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        yield


def _secrets_only(file: Any, hosts: Any, shells: Any, secrets: Any, **_: Any) -> tuple[KeepSecrets, ...]:
    return (KeepSecrets(shells[keeper_of(file)], secrets),)


async def _no_nova(_: object) -> dict[str, int]:
    return {"computes_up": 0}


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _line(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {failure}".replace("\n", " | ")
