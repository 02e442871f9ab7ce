"""A look whose connection broke under it is begun again, and one at a peer that has just come back; nothing else is."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from proto.errors import CaasError, Code
from proto.transport.failures import PATIENCE, PAUSE, look


class Peer:
    """Answers after it has failed by each of *failures*."""

    def __init__(self, *failures: grpc.StatusCode) -> None:
        self._failures = list(failures)
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if self._failures:
            raise grpc.aio.AioRpcError(
                self._failures.pop(0), grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
            )
        return "here"


@pytest.mark.parametrize("failed", [1, 3])
async def test_one_that_was_restarted_meanwhile_answers(failed: int) -> None:
    peer = Peer(*[grpc.StatusCode.UNAVAILABLE] * failed)
    assert await look(peer.ask, "host1") == "here"
    assert peer.asked == failed + 1


async def test_one_that_is_away_is_given_up_soon() -> None:
    peer, began = Peer(*[grpc.StatusCode.UNAVAILABLE] * 100), asyncio.get_running_loop().time()
    with pytest.raises(CaasError, match=r"^host1: ") as caught:
        await look(peer.ask, "host1")
    assert caught.value.code is Code.UNREACHABLE
    assert PATIENCE < asyncio.get_running_loop().time() - began < PATIENCE + 1
    assert 2 < peer.asked < PATIENCE / PAUSE + 3


@pytest.mark.parametrize(
    ("failure", "code"),
    [(grpc.StatusCode.DEADLINE_EXCEEDED, Code.TIMEOUT), (grpc.StatusCode.UNKNOWN, Code.FAILED)],
)
async def test_other_failures_are_told_at_once(failure: grpc.StatusCode, code: Code) -> None:
    peer = Peer(failure)
    with pytest.raises(CaasError, match=r"^host1: ") as caught:
        await look(peer.ask, "host1")
    assert (peer.asked, caught.value.code) == (1, code)
