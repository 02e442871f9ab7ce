"""Who is told that a change stays: everybody, or nobody. With virtual time, and agents that answer as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from coordinator.confirming import WITHIN, Changes, insist
from proto import types_pb2
from proto.errors import CaasError, Code
from tests.support.simulation.clock import VirtualLoop
from tests.support.things import make_container, make_desired

GONE = CaasError(Code.UNREACHABLE, "host2: no route to host")
STALE = CaasError(Code.STALE, "host2: taken back")


class FakeAgent:
    """AgentClient: `calls` has what was asked, when, and over which connection; `answers`: what is said, not yes."""

    def __init__(self, host: str, calls: list[tuple[str, str, float, int]]) -> None:
        self.host, self._calls = host, calls
        self.answers: dict[str, list[CaasError | None]] = {"hold": [], "confirm": []}
        self.connections = 0
        self.seconds, self.kind = 0.0, "bridge"
        self.failure: CaasError | None = None

    @contextlib.asynccontextmanager
    async def anew(self) -> AsyncIterator[Any]:
        self.connections += 1
        yield _Connection(self, self.connections)

    async def apply(self, desired: Any, on_event: Callable[[Any], None], *, confirm_within: float) -> Any:
        assert confirm_within == WITHIN
        if self.kind:
            action = types_pb2.Action(verb="create", kind=self.kind, name="x")
            on_event(types_pb2.ApplyEvent(planned=types_pb2.ApplyEvent.Planned(actions=[action])))
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        return types_pb2.ApplyEvent.Result(generation=desired.generation)

    def asked(self, verb: str, generation: int, connection: int) -> None:
        assert generation == 3
        self._calls.append((verb, self.host, asyncio.get_running_loop().time(), connection))
        queue = self.answers[verb]
        if queue and (answer := queue.pop(0)):
            raise answer


class _Connection:
    def __init__(self, agent: FakeAgent, number: int) -> None:
        self._agent, self._number = agent, number

    async def confirm(self, cluster: str, generation: int, *, hold: bool, timeout: float) -> None:
        assert cluster == "demo"
        assert 0 < timeout < WITHIN / 2 + 0.001
        await asyncio.sleep(0.01)
        self._agent.asked("hold" if hold else "confirm", generation, self._number)


class Rig:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float, int]] = []
        self.changes = Changes("demo", WITHIN)
        self.one, self.two = FakeAgent("host1", self.calls), FakeAgent("host2", self.calls)

    async def apply(self, *agents: FakeAgent) -> list[BaseException]:
        desired = make_desired(make_container(), generation=3)
        work = (self.changes.apply(agent, desired) for agent in agents)  # type: ignore[arg-type]
        results = await asyncio.gather(*work, return_exceptions=True)
        return [result for result in results if isinstance(result, BaseException)]

    async def end(self) -> list[CaasError]:
        try:
            return await self.changes.confirm()
        finally:
            await self.changes.close()

    def verbs(self) -> list[tuple[str, str]]:
        return [(verb, host) for verb, host, _, _ in self.calls]


def play(story: Callable[[Rig], Coroutine[Any, Any, None]]) -> Rig:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    rig: list[Rig] = []

    async def run() -> None:
        rig.append(Rig())
        await story(rig[0])
        assert len(asyncio.all_tasks()) == 1, "nobody is held any more"

    try:
        loop.run_until_complete(run())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return rig[0]


def test_all_are_reached_before_any_is_told() -> None:
    async def story(rig: Rig) -> None:
        assert await rig.apply(rig.one, rig.two) == []
        assert await rig.end() == []

    rig = play(story)
    assert sorted(rig.verbs()[:2]) == [("hold", "host1"), ("hold", "host2")]
    assert sorted(rig.verbs()[2:]) == [("confirm", "host1"), ("confirm", "host2")]
    assert (rig.one.connections, rig.two.connections) == (1, 1)


def test_where_one_is_not_reached_none_is_told() -> None:
    async def story(rig: Rig) -> None:
        rig.two.answers["hold"] = [GONE] * 1000
        assert await rig.apply(rig.one, rig.two) == []
        began = asyncio.get_running_loop().time()
        (error,) = await rig.end()
        assert asyncio.get_running_loop().time() - began == pytest.approx(WITHIN / 2, abs=0.5)
        assert error.code is Code.UNVERIFIED
        assert "host2: no route to host" in error.message
        assert "Within 30 s each host that was changed makes its network as before by itself (host1, host2)" in (
            error.message
        )
        assert "caas status demo" in error.hint

    assert ("confirm", "host1") not in play(story).verbs()


def test_who_has_taken_it_back_already_ends_it_at_once() -> None:
    async def story(rig: Rig) -> None:
        rig.two.answers["hold"] = [STALE]
        await rig.apply(rig.one, rig.two)
        (error,) = await rig.end()
        assert "host2: taken back" in error.message

    assert sorted(play(story).verbs()) == [("hold", "host1"), ("hold", "host2")]


def test_what_is_lost_now_and_then_is_asked_again() -> None:
    async def story(rig: Rig) -> None:
        rig.two.answers = {"hold": [GONE, GONE, None], "confirm": [GONE]}
        await rig.apply(rig.one, rig.two)
        assert await rig.end() == []

    assert play(story).verbs().count(("confirm", "host2")) == 2


@pytest.mark.parametrize("code", [Code.UNREACHABLE, Code.TIMEOUT])
def test_one_that_is_lost_while_its_network_changes_is_the_end_of_it(code: Code) -> None:
    async def story(rig: Rig) -> None:
        rig.two.failure = CaasError(code, "host2: gone")
        (failure,) = await rig.apply(rig.one, rig.two)
        assert isinstance(failure, CaasError)
        assert (failure.code, failure.message) == (Code.UNVERIFIED, "host2: gone; it was changing its network")
        (error,) = await rig.end()
        assert "host2 did not answer" in error.message
        assert "(host1, host2)" in error.message

    assert play(story).calls == []


@pytest.mark.parametrize("kind", ["container", ""])
def test_one_that_is_lost_before_its_network_changes_keeps_nobody_from_it(kind: str) -> None:
    async def story(rig: Rig) -> None:
        rig.two.failure, rig.two.kind = GONE, kind
        assert await rig.apply(rig.one, rig.two) == [GONE]
        assert await rig.end() == []

    assert play(story).verbs() == [("hold", "host1"), ("confirm", "host1")]


def test_one_that_says_why_it_failed_keeps_nobody_from_it() -> None:
    async def story(rig: Rig) -> None:
        rig.two.failure = CaasError(Code.NO_ROOM, "host2: no space left")
        assert await rig.apply(rig.one, rig.two) == [rig.two.failure]
        assert await rig.end() == []

    assert play(story).verbs() == [("hold", "host1"), ("confirm", "host1")]


def test_who_is_done_early_is_held_over_new_connections_until_the_last_is_done() -> None:
    async def story(rig: Rig) -> None:
        rig.two.seconds = 5 * WITHIN
        rig.one.answers["hold"] = [None, GONE, None]
        assert await rig.apply(rig.one, rig.two) == []
        assert await rig.end() == []

    rig = play(story)
    holds = [(at, connection) for verb, host, at, connection in rig.calls if (verb, host) == ("hold", "host1")]
    times = [at for at, _ in holds]
    assert max(after - before for before, after in itertools.pairwise(times)) < WITHIN / 2
    assert [connection for _, connection in holds] == list(range(1, len(holds) + 1))
    assert times[-1] > 5 * WITHIN


def test_what_waited_before_is_held_at_once() -> None:
    async def story(rig: Rig) -> None:
        rig.changes.add(rig.one, 3, hold_after=0)  # type: ignore[arg-type]
        await rig.apply(rig.two)
        await asyncio.sleep(1)
        assert rig.verbs() == [("hold", "host1")]
        assert await rig.end() == []

    assert play(story).verbs().count(("confirm", "host1")) == 1


def test_one_that_is_lost_when_the_others_are_told_is_named_with_what_it_may_do() -> None:
    async def story(rig: Rig) -> None:
        rig.two.answers["confirm"] = [GONE] * 1000
        await rig.apply(rig.one, rig.two)
        (error,) = await rig.end()
        assert error.code is Code.UNVERIFIED
        assert error.message.startswith("host2: no route to host; the change of demo is confirmed elsewhere")

    assert ("confirm", "host1") in play(story).verbs()


async def _answer(answers: list[CaasError | None]) -> Callable[[float], Awaitable[None]]:
    async def call(left: float) -> None:
        assert left > 0
        if answer := answers.pop(0):
            raise answer

    return call


def test_insisting_ends_with_what_will_not_change() -> None:
    async def story(rig: Rig) -> None:
        with pytest.raises(CaasError, match="taken back"):
            await insist(await _answer([GONE, STALE]), seconds=5)
        await insist(await _answer([GONE, None]), seconds=5)
        with pytest.raises(CaasError, match="no route"):
            await insist(await _answer([GONE] * 100), seconds=5)

    play(story)
