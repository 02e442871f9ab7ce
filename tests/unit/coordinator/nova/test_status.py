"""nova's list of services, asked for once by many steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.nova import verify
from tests.support.fake_nova import FakeCluster, FakeContainer


async def test_an_answer_from_before_it_was_forgotten_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    up, asked, may_answer = {"c1"}, asyncio.Event(), asyncio.Event()

    async def answer(_: object) -> dict[str, Any]:
        seen = sorted(up)
        asked.set()
        await may_answer.wait()
        return {"services": [{"binary": "nova-compute", "host": host, "state": "up"} for host in seen]}

    monkeypatch.setattr(verify, "nova_status", answer)
    status = verify.Status(FakeContainer(FakeCluster(), "c0"))
    early = asyncio.create_task(status.up())
    await asked.wait()
    up.add("c2")
    status.forget()
    late = asyncio.create_task(status.up())
    await asyncio.sleep(0)
    may_answer.set()
    assert await late == {"c1", "c2"}
    assert await early == {"c1", "c2"}
