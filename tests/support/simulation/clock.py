"""An event loop whose clock jumps to the next thing that is due. Nothing in it waits for the real world.

What goes to worker threads runs in the loop's own: a look after a moment, changes one after the other, as in an
agent's own process (proto.transport.changes). A change happens at one instant, and is answered for later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol


class Process(Protocol):
    """Whose thread it is: of a process that may die, now or later."""

    busy_until: float

    def latency(self) -> float: ...
    def work(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run it; raises Died where the process is no more, or dies in it."""


class Died(BaseException):
    """The process that this ran in is no more: no `except` and no `finally` of its own has any effect."""


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


class _Selector:
    """Advances the clock where a real one would sleep."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is due, and something is waited for: a deadlock")
        self._loop.now += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """`now` is in seconds since the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _Selector(self)

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        return None

    def _write_to_self(self) -> None:
        return None

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()
        if process is None:
            future.set_result(func(*args))
            return future
        begin, end = self.now + process.latency(), 0.0
        if executor is not None:
            begin = max(begin, process.busy_until)
            end = process.busy_until = begin + process.latency()
        self.call_at(begin, self._run, process, future, max(begin, end), func, args)
        return future

    def _run(
        self, process: Process, future: asyncio.Future[Any], end: float, func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if future.done():  # its caller has gone before it began
            return
        try:
            result = process.work(func, *args)
        except Died:
            return  # nobody is left that could be told
        except Exception as exc:
            self.call_at(end, _settle, future, None, exc)
            return
        self.call_at(end, _settle, future, result, None)


def _settle(future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)
