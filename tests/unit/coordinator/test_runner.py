"""Steps: order, skipping, looking after running, failures and interruption."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.journal import Journal
from coordinator.progress import Progress
from coordinator.runner import pending_steps, run_steps
from coordinator.steps import make_waves
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code


@dataclass
class Fake:
    """A step that is done once it ran, unless told otherwise."""

    id: str
    needs: frozenset[str] = frozenset()
    log: list[str] = field(default_factory=list)
    is_done: bool = False
    fails: bool = False
    lies: bool = False
    hangs: bool = False
    gone: bool = False

    @property
    def title(self) -> str:
        return self.id

    async def done(self) -> bool:
        return self.is_done

    async def run(self) -> None:
        self.log.append(f"+{self.id}")
        await asyncio.sleep(3600 if self.hangs else 0)
        if self.fails:
            raise CaasError(Code.UNREACHABLE if self.gone else Code.FAILED, f"{self.id} broke")
        self.is_done = not self.lies
        self.log.append(f"-{self.id}")

    async def undo(self) -> None:
        self.is_done = False


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def progress(journal: Journal, events: list[pb.Event] | None = None) -> Progress:
    return Progress("demo", journal, (events if events is not None else []).append)


async def test_a_step_runs_after_what_it_needs_and_only_if_not_done(journal: Journal) -> None:
    log: list[str] = []
    steps = [
        Fake("c", frozenset({"a", "b"}), log),
        Fake("a", frozenset(), log),
        Fake("b", frozenset(), log, is_done=True),
    ]
    events: list[pb.Event] = []
    assert await run_steps(steps, progress(journal, events)) == ("a", "c")
    assert log == ["+a", "-a", "+c", "-c"]
    states = {(event.id, event.state) for event in events}
    assert ("b", pb.Event.SKIPPED) in states
    assert ("c", pb.Event.DONE) in states
    assert await run_steps(steps, progress(journal)) == ()


async def test_independent_steps_run_side_by_side(journal: Journal) -> None:
    log: list[str] = []
    await run_steps([Fake("a", log=log), Fake("b", log=log)], progress(journal))
    assert log[:2] == ["+a", "+b"]


async def test_after_a_failure_nothing_new_begins_and_a_second_run_goes_on(journal: Journal) -> None:
    log: list[str] = []
    broken = Fake("a", log=log, fails=True)
    steps = [broken, Fake("b", frozenset({"a"}), log)]
    with pytest.raises(CaasError, match="a broke"):
        await run_steps(steps, progress(journal))
    assert log == ["+a"]
    assert [entry.outcome for entry in journal.entries("demo")] == ["failed"]
    broken.fails = False
    assert await run_steps(steps, progress(journal)) == ("a", "b")


async def test_a_failure_ends_those_that_need_it_only_through_others(journal: Journal) -> None:
    log: list[str] = []
    steps = [Fake("a", log=log, fails=True), Fake("b", frozenset({"a"}), log), Fake("c", frozenset({"b"}), log)]
    with pytest.raises(CaasError, match="a broke"):
        await asyncio.wait_for(run_steps(steps, progress(journal)), timeout=10)
    assert log == ["+a"]


async def test_a_step_that_says_it_ran_and_is_not_done_is_unverified(journal: Journal) -> None:
    with pytest.raises(CaasError) as caught:
        await run_steps([Fake("a", lies=True)], progress(journal))
    assert caught.value.code is Code.UNVERIFIED


async def test_a_step_whose_host_goes_away_is_left_out_with_those_that_need_it(journal: Journal) -> None:
    steps = [
        Fake("a", fails=True, gone=True),
        Fake("b", frozenset({"a"})),
        Fake("c", frozenset({"b"})),
        Fake("d"),
        Fake("e", frozenset({"d"})),
    ]
    events: list[pb.Event] = []
    left: dict[str, str] = {}
    assert await run_steps(steps, progress(journal, events), left=left) == ("d", "e")
    assert left == dict.fromkeys("abc", "a broke")
    assert [(event.id, event.message) for event in events if event.state == pb.Event.SKIPPED] == [("a", "a broke")]
    assert not [event for event in events if event.state == pb.Event.FAILED]
    assert [entry.outcome for entry in journal.entries("demo") if entry.step == "a"] == ["put off"]
    with pytest.raises(CaasError, match="a broke"):
        await run_steps(steps, progress(journal))


async def test_an_interrupt_ends_what_runs_and_is_journalled(journal: Journal) -> None:
    began = asyncio.Event()
    progressing = Progress("demo", journal, lambda event: began.set())
    task = asyncio.create_task(run_steps([Fake("a", hangs=True)], progressing))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.outcome for entry in journal.entries("demo")] == ["interrupted"]


async def test_pending_steps_are_those_not_done(journal: Journal) -> None:
    steps = [Fake("a", is_done=True), Fake("b")]
    assert [step.id for step in await pending_steps(steps)] == ["b"]


def test_waves_and_what_cannot_be_ordered() -> None:
    steps = [Fake("a"), Fake("b", frozenset({"a"})), Fake("c", frozenset({"a"}))]
    assert make_waves(steps) == (("a",), ("b", "c"))
    with pytest.raises(CaasError, match="need each other: a, b"):
        make_waves([Fake("a", frozenset({"b"})), Fake("b", frozenset({"a"}))])
    with pytest.raises(CaasError, match="ghost"):
        make_waves([Fake("a", frozenset({"ghost"}))])
