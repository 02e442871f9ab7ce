"""A look whose connection broke under it is begun again once; nothing else is."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from proto.errors import CaasError, Code
from proto.transport.failures import look


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


async def test_one_that_was_restarted_meanwhile_answers() -> None:
    peer = Peer(grpc.StatusCode.UNAVAILABLE)
    assert await look(peer.ask, "host1") == "here"
    assert peer.asked == 2


@pytest.mark.parametrize(
    ("failures", "asked", "code"),
    [
        ((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE), 2, Code.UNREACHABLE),
        ((grpc.StatusCode.DEADLINE_EXCEEDED,), 1, Code.TIMEOUT),
        ((grpc.StatusCode.UNKNOWN,), 1, Code.FAILED),
    ],
)
async def test_other_failures_are_told_at_once(failures: tuple[grpc.StatusCode, ...], asked: int, code: Code) -> None:
    peer = Peer(*failures)
    with pytest.raises(CaasError) as caught:
        await look(peer.ask, "host1")
    assert (peer.asked, caught.value.code) == (asked, code)
    assert caught.value.message.startswith("host1: ")
