"""Looks into containers of one host are asked for together, and each gets what is its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from coordinator.inspections import Inspections
from proto import agent_pb2
from proto.errors import CaasError, Code


class Agent:
    """Answers with what it was asked, and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[agent_pb2.InspectRequest] = []

    async def inspect(self, request: agent_pb2.InspectRequest) -> agent_pb2.InspectReply:
        self.calls.append(request)
        await asyncio.sleep(0.05)  # the others ask meanwhile
        report: dict[str, Any] = {
            one.hostname: {"files": {path: [request.cluster, one.hostname] for path in one.files}}
            for one in request.containers
        }
        if "gone" in report:
            report["gone"] = {"error": {"code": "not-found", "message": "container x.gone does not run", "hint": "h"}}
        return agent_pb2.InspectReply(report=json.dumps(report))


def wanted(*files: str) -> dict[str, list[str]]:
    return {"files": list(files), "units": [], "ports": [], "http": [], "rows": []}


async def test_sixty_looks_are_two_calls() -> None:
    agent = Agent()
    looks = Inspections(agent.inspect)
    seen = await asyncio.gather(*(looks.look("x", f"c{number}", wanted("/a")) for number in range(60)))
    assert [one["files"]["/a"][1] for one in seen] == [f"c{number}" for number in range(60)]
    assert [len(call.containers) for call in agent.calls] == [1, 59]


async def test_two_clusters_and_two_looks_at_one_container() -> None:
    agent = Agent()
    looks = Inspections(agent.inspect)
    first = asyncio.create_task(looks.look("x", "c0", wanted("/first")))
    await asyncio.sleep(0)
    seen = await asyncio.gather(
        looks.look("x", "c1", wanted("/a")), looks.look("x", "c1", wanted("/b")), looks.look("y", "c1", wanted("/a"))
    )
    assert seen[0]["files"]["/a"] == ["x", "c1"]
    assert seen[1]["files"]["/b"] == ["x", "c1"]
    assert seen[2]["files"] == {"/a": ["y", "c1"]}
    assert "/first" in (await first)["files"]
    assert len(agent.calls) == 3


async def test_one_that_cannot_be_seen_fails_alone() -> None:
    agent = Agent()
    looks = Inspections(agent.inspect)
    there = asyncio.create_task(looks.look("x", "c0", wanted("/a")))
    with pytest.raises(CaasError, match="does not run") as gone:
        await asyncio.gather(looks.look("x", "c1", wanted("/a")), looks.look("x", "gone", wanted("/a")))
    assert (gone.value.code, gone.value.hint) == (Code.NOT_FOUND, "h")
    assert (await there)["files"] == {"/a": ["x", "c0"]}


async def test_a_call_that_fails_fails_for_all_who_asked() -> None:
    async def broken(request: agent_pb2.InspectRequest) -> agent_pb2.InspectReply:
        raise CaasError(Code.UNREACHABLE, "host1: gone")

    looks = Inspections(broken)
    for failure in await asyncio.gather(
        *(looks.look("x", f"c{number}", wanted()) for number in range(3)), return_exceptions=True
    ):
        with pytest.raises(CaasError, match="host1: gone"):
            raise failure if isinstance(failure, BaseException) else AssertionError(failure)
