"""A change of a host or of NATBox as a stream: its plan, each action as it is done, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from proto import types_pb2
from proto.model import Action, Cost, Plan
from proto.wire import action_to_wire

#: Changes follow each other, in a thread of their own: however many wait, looks find a thread.
_CHANGES = ThreadPoolExecutor(1, thread_name_prefix="changes")


class OnPlan(Protocol):
    def __call__(self, plan: Plan, /) -> None: ...


class OnDone(Protocol):
    def __call__(self, action: Action, /) -> None: ...


class Change(Protocol):
    """Blocking work that tells its plan once and each action of it when it is done."""

    def __call__(self, *, on_plan: OnPlan, on_done: OnDone) -> Cost: ...


async def follow_change(change: Change) -> AsyncIterator[types_pb2.ApplyEvent]:
    """Run *change* on a worker thread and tell what it tells; its failure is raised.

    A caller that goes away does not interrupt it: something half-made would be worse than something made.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[types_pb2.ApplyEvent | None] = asyncio.Queue()
    index: dict[int, int] = {}
    began = loop.time()

    def emit(event: types_pb2.ApplyEvent | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def on_plan(plan: Plan) -> None:
        index.update({id(action): number for number, action in enumerate(plan)})
        emit(planned(plan))

    def on_done(action: Action) -> None:
        done = types_pb2.ApplyEvent.Finished(index=index[id(action)], seconds=loop.time() - began)
        emit(types_pb2.ApplyEvent(finished=done))

    def run() -> Cost | Exception:
        # Returned, not raised: where the caller has gone, nobody is left to retrieve it.
        try:
            return change(on_plan=on_plan, on_done=on_done)
        except Exception as error:
            return error
        finally:
            emit(None)

    work = loop.run_in_executor(_CHANGES, run)
    try:
        while (event := await queue.get()) is not None:
            yield event
        outcome = await work
    finally:
        work.cancel()  # one that has not begun, and whose caller has gone, is not made; one that has goes on
    if isinstance(outcome, Exception):
        raise outcome
    yield finished(outcome)


def planned(plan: Plan) -> types_pb2.ApplyEvent:
    """The first event."""
    return types_pb2.ApplyEvent(planned=types_pb2.ApplyEvent.Planned(actions=map(action_to_wire, plan)))


def finished(cost: Cost) -> types_pb2.ApplyEvent:
    """The last event."""
    return types_pb2.ApplyEvent(
        result=types_pb2.ApplyEvent.Result(
            generation=cost.generation,
            kernel_writes=cost.kernel_writes,
            container_writes=cost.container_writes,
            left=cost.left,
        )
    )
