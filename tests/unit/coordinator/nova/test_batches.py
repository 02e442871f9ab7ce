"""Who asks while a job is under way is in the next one; nobody is forgotten, and nobody is asked about twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from coordinator.nova.batches import Batches


class Jobs:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, ...]] = []
        self.may_end = asyncio.Semaphore(0)
        self.failing = ""

    async def __call__(self, items: tuple[str, ...]) -> Mapping[str, Any]:
        self.batches.append(items)
        await self.may_end.acquire()
        if self.failing in items:
            raise ValueError(self.failing)
        return {item: f"about {item}" for item in items}

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            self.may_end.release()


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_that_ask_meanwhile_are_one_job() -> None:
    jobs = Jobs()
    batches = Batches(jobs, most=10)
    asked = [asyncio.create_task(batches.ask("first"))]
    await _settle()
    asked += [asyncio.create_task(batches.ask(f"n{number}")) for number in range(5)]
    await _settle()
    jobs.let_go(2)
    assert await asyncio.gather(*asked) == ["about first", *(f"about n{number}" for number in range(5))]
    assert jobs.batches == [("first",), ("n0", "n1", "n2", "n3", "n4")]


async def test_no_job_has_more_than_the_most() -> None:
    jobs = Jobs()
    batches = Batches(jobs, most=2)
    asked = [asyncio.create_task(batches.ask(str(number))) for number in range(6)]
    await _settle()
    jobs.let_go(4)
    await asyncio.gather(*asked)
    assert jobs.batches == [("0",), ("1", "2"), ("3", "4"), ("5",)]


async def test_a_failure_is_its_batchs_alone() -> None:
    jobs = Jobs()
    jobs.failing = "bad"
    batches = Batches(jobs, most=2)
    asked = [asyncio.create_task(batches.ask(item)) for item in ("first", "bad", "beside", "good")]
    await _settle()
    jobs.let_go(3)
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in found] == [str, ValueError, ValueError, str]
    jobs.failing = ""
    jobs.let_go()
    assert await batches.ask("bad") == "about bad"


async def test_where_the_one_who_runs_a_batch_is_cancelled_the_others_go_on() -> None:
    jobs = Jobs()
    batches = Batches(jobs, most=10)
    one, other = (asyncio.create_task(batches.ask(item)) for item in ("one", "other"))
    await _settle()
    one.cancel()
    await _settle()
    jobs.let_go()
    assert await other == "about other"
    with pytest.raises(asyncio.CancelledError):
        await one
