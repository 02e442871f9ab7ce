"""Changes of one cluster exclude each other until the work itself has ended, whatever its caller does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Settings
from coordinator.journal import Journal
from coordinator.progress import Progress
from coordinator.rpc.service import CoordinatorService
from proto.errors import CaasError, Code


class Slow:
    """Work that takes a while to end after it was interrupted."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.ended = False

    async def __call__(self, progress: Progress) -> dict[str, Any]:
        try:
            async with progress.step("s", "slow"):
                await asyncio.sleep(3600)
        finally:
            await self.may_end.wait()
            self.ended = True
        return {}


@pytest.fixture
def service(tmp_path: Path) -> CoordinatorService:
    return CoordinatorService(Journal(tmp_path / "journal.db"), None, Settings())  # type: ignore[arg-type]


async def test_a_caller_that_leaves_does_not_let_another_in_before_the_work_has_ended(
    service: CoordinatorService,
) -> None:
    work = Slow()
    events = service._alone("demo", "up", work)
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    with pytest.raises(CaasError) as caught:
        await anext(service._alone("demo", "down", Slow()))
    assert caught.value.code is Code.BUSY
    work.may_end.set()
    await service.stop()
    assert work.ended
    other = service._alone("demo", "down", Slow())
    await anext(other)


async def test_stop_waits_until_it_is_written_how_the_work_ended(service: CoordinatorService) -> None:
    work = Slow()
    work.may_end.set()
    events = service._alone("demo", "up", work)
    await anext(events)
    await service.stop()
    assert [entry.outcome for entry in service._journal.entries("demo")] == ["interrupted"]
