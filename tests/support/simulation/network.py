"""Channels of the simulated network: what grpc.aio's stubs ask for, over nothing but a clock and a die.

A call may be lost on its way, or its answer; it may come late, when its caller has long gone; it may come twice.
Calls to different machines overtake each other, and so do those to one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass, fields
from random import Random
from typing import Any, Protocol

import grpc
import grpc.aio

from proto import types_pb2
from proto.errors import CaasError
from proto.transport.failures import METADATA_KEY, STATUS, error_to_wire
from tests.support.simulation.clock import PROCESS

#: How long what comes late may take, in virtual seconds.
LATE = 40.0


@dataclass(slots=True)
class Weather:
    """How bad the network is: each a probability for one call."""

    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    slow: float = 0.0

    def become(self, other: Weather) -> None:
        """From now on as *other*; a new Weather() lets everything arrive, once."""
        for item in fields(self):
            setattr(self, item.name, getattr(other, item.name))


class Peer(Protocol):
    """The machine at the other end."""

    name: str
    away: bool
    handlers: dict[str, Any] | None

    def latency(self) -> float: ...
    def serve(self, task: asyncio.Task[None]) -> None:
        """*task* ends when the machine's process does."""


class Registry:
    """What add_…Servicer_to_server registers with."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        return None

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers.update(handlers)


class Channel:
    """A grpc.aio.Channel to one machine, as far as generated stubs use one."""

    def __init__(self, peer: Peer, weather: Weather, random: Random, tell: Callable[[str], None]) -> None:
        self._peer, self._weather, self._random, self._tell = peer, weather, random, tell

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def begin(request: Any, timeout: float | None = None) -> Any:
            items = self._call(path, [request_serializer(request)], timeout)
            async with contextlib.aclosing(items):
                return response_deserializer(await anext(items))

        return begin

    def unary_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def begin(request: Any, timeout: float | None = None) -> AsyncIterator[Any]:
            items = self._call(path, [request_serializer(request)], timeout)
            async with contextlib.aclosing(items):
                async for item in items:
                    yield response_deserializer(item)

        return begin

    def stream_unary(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def begin(requests: AsyncIterator[Any], timeout: float | None = None) -> Any:
            items = self._call(path, [request_serializer(request) async for request in requests], timeout)
            async with contextlib.aclosing(items):
                return response_deserializer(await anext(items))

        return begin

    def stream_stream(self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def begin(requests: AsyncIterator[Any], timeout: float | None = None) -> AsyncIterator[Any]:
            sent = []
            async for request in requests:
                sent.append(request_serializer(request))
                if request.WhichOneof("input") == "eof":
                    break
            items = self._call(path, sent, timeout)
            async with contextlib.aclosing(items):
                async for item in items:
                    yield response_deserializer(item)

        return begin

    async def _call(self, path: str, requests: list[bytes], timeout: float | None) -> Any:
        method = path.rpartition("/")[2]
        answers: asyncio.Queue[bytes | grpc.aio.AioRpcError | None] = asyncio.Queue()
        fate, random = self._fate(), self._random
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout or 600.0)
        if fate in ("late", "twice"):
            self._tell(f"{self._peer.name}: {method} {'comes late' if fate == 'late' else 'will come again'}")
            loop.call_later(random.uniform(0, LATE), self._deliver, method, requests, asyncio.Queue())
        cut = random.randint(0, 4) if fate == "answer lost" else -1
        serving: asyncio.Task[None] | None = None
        try:
            await asyncio.sleep(self._peer.latency() * (20 if random.random() < self._weather.slow else 1))
            if fate in ("late", "lost") or self._peer.away:
                await asyncio.sleep(random.choice((0.2, deadline - loop.time())))
                raise _unavailable(f"{method}: connection lost")
            if self._peer.handlers is None:
                raise _unavailable(f"{method}: connection refused")
            serving = self._deliver(method, requests, answers)
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await answers.get()
                if item is None and cut < 0:
                    return
                if cut == 0 or item is None or self._peer.away:
                    self._tell(f"{self._peer.name}: the answer of {method} is lost")
                    raise _unavailable(f"{method}: connection lost")
                cut -= 1
                await asyncio.sleep(self._peer.latency())
                if isinstance(item, grpc.aio.AioRpcError):
                    raise item
                yield item
        except TimeoutError:
            raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method}: no answer") from None
        finally:
            # The other side learns that its caller has gone; sometimes it never does.
            if serving is not None and not serving.done() and random.random() < 0.8:
                loop.call_later(self._peer.latency(), serving.cancel)

    def _fate(self) -> str:
        dice, weather = self._random.random(), self._weather
        for fate, chance in (
            ("lost", weather.lost),
            ("answer lost", weather.answer_lost),
            ("late", weather.late),
            ("twice", weather.twice),
        ):
            if dice < chance:
                return fate
            dice -= chance
        return ""

    def _deliver(self, method: str, requests: list[bytes], answers: asyncio.Queue[Any]) -> asyncio.Task[None] | None:
        peer = self._peer
        if peer.handlers is None or peer.away:
            return None
        handler = peer.handlers[method]
        context = copy_context()
        context.run(PROCESS.set, peer)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        task = loop.create_task(_serve(handler, requests, answers), context=context)
        peer.serve(task)
        return task


async def _serve(handler: Any, requests: list[bytes], answers: asyncio.Queue[Any]) -> None:
    """Run a handler; what it answers, and how it ends, goes into *answers*."""
    try:
        taken = [handler.request_deserializer(request) for request in requests]
        if handler.unary_unary:
            answers.put_nowait(handler.response_serializer(await handler.unary_unary(taken[0], None)))
        elif handler.stream_unary:
            answers.put_nowait(handler.response_serializer(await handler.stream_unary(_all(taken), None)))
        else:
            inner = (
                handler.unary_stream(taken[0], None)
                if handler.unary_stream
                else handler.stream_stream(_all(taken), None)
            )
            async with contextlib.aclosing(inner) as items:
                async for item in items:
                    answers.put_nowait(handler.response_serializer(item))
    except CaasError as error:
        detail = types_pb2.ErrorDetail.FromString(error_to_wire(error).SerializeToString())
        trailing = grpc.aio.Metadata((METADATA_KEY, detail.SerializeToString()))
        answers.put_nowait(_failure(STATUS[error.code], error.message, trailing))
    except Exception as exc:
        answers.put_nowait(_failure(grpc.StatusCode.INTERNAL, f"{type(exc).__name__}: {exc}"))
        raise
    except BaseException:
        answers.put_nowait(_unavailable("connection reset"))
        raise
    answers.put_nowait(None)


async def _all(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def _unavailable(text: str) -> grpc.aio.AioRpcError:
    return _failure(grpc.StatusCode.UNAVAILABLE, text)


def _failure(code: grpc.StatusCode, text: str, trailing: grpc.aio.Metadata | None = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing or grpc.aio.Metadata(), text)
