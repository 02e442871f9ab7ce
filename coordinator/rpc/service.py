"""Coordinator: each handler decodes, calls, encodes. What changes a cluster excludes its like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from coordinator import access, bringup, checks, doctor, logs, natbox_hand_over, natboxes, status, teardown
from coordinator.catching_up import CatchingUp
from coordinator.claims import Claims
from coordinator.compiling import compile_cluster, to_document
from coordinator.config import Settings
from coordinator.conflicts import check_conflicts
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX, Journal
from coordinator.natbox_watch import Watch
from coordinator.nova.urls import INTERNAL, PUBLIC
from coordinator.progress import Progress
from coordinator.reading import read_request
from proto import coordinator_pb2 as pb
from proto import coordinator_pb2_grpc
from proto.errors import invalid

Work = Callable[[Progress], Coroutine[Any, Any, dict[str, Any]]]


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServicer):
    """The service over one journal and one fleet; *settings* are what files leave to the site."""

    def __init__(self, journal: Journal, fleet: Fleet, settings: Settings) -> None:
        self._journal = journal
        self._fleet = fleet
        self._settings = settings
        self._claims = Claims()
        self._catching_up = CatchingUp(fleet, journal, self._claims)
        self._under_way: set[asyncio.Task[dict[str, Any]]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def Check(self, request: pb.FileRequest, context: Any) -> pb.Document:
        file = (await read_request(self._settings, request)).file
        check_conflicts(self._fleet, self._journal, file)
        return _document({"cluster": file.name})

    async def Compile(self, request: pb.FileRequest, context: Any) -> pb.Document:
        return _document(to_document(compile_cluster((await read_request(self._settings, request)).file)))

    async def Plan(self, request: pb.UpRequest, context: Any) -> pb.Document:
        reading = await read_request(self._settings, request.file)
        return _document(await bringup.plan(self._fleet, self._journal, reading))

    async def Status(self, request: pb.NameRequest, context: Any) -> pb.Document:
        if not request.name:
            return _document(status.list_clusters(self._journal))
        return _document(await status.status(self._fleet, self._journal, request.name))

    async def Doctor(self, request: pb.NameRequest, context: Any) -> pb.Document:
        return _document(await doctor.examine(self._fleet, self._journal, self._settings, request.name))

    async def Credentials(self, request: pb.CredentialsRequest, context: Any) -> pb.Document:
        interface = PUBLIC if request.public else INTERNAL
        found = access.credentials(self._fleet, self._journal, request.name, request.format, interface)
        return _document(found)

    async def NatBoxStatus(self, request: pb.NatBoxStatusRequest, context: Any) -> pb.Document:
        document = await natboxes.status(self._fleet, self._journal, request.natbox)
        if pair := self._settings.natbox:
            document["pair"] = await natbox_hand_over.describe(self._fleet, pair)
        return _document(document)

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.Document:
        return _document(await natboxes.explain(self._fleet, self._journal, request))

    async def Logs(self, request: pb.NameRequest, context: Any) -> pb.Document:
        return _document(await logs.logs(self._fleet, self._journal, request.name))

    async def Up(self, request: pb.UpRequest, context: Any) -> AsyncIterator[pb.Event]:
        reading = await read_request(self._settings, request.file)

        async def work(progress: Progress) -> dict[str, Any]:
            return await bringup.up(
                self._fleet,
                self._journal,
                reading,
                progress,
                remove=request.remove,
                restart=request.restart,
                forget=request.forget,
            )

        async for event in self._alone(reading.file.name, "up", work):
            yield event

    async def Down(self, request: pb.NameRequest, context: Any) -> AsyncIterator[pb.Event]:
        file = (await read_request(self._settings, request.file)).file if request.HasField("file") else None
        name = file.name if file else _named(request)

        async def work(progress: Progress) -> dict[str, Any]:
            return await teardown.down(self._fleet, self._journal, name, progress, file, forget=request.forget)

        async for event in self._alone(name, "down", work):
            yield event

    async def HandOver(self, request: pb.HandOverRequest, context: Any) -> AsyncIterator[pb.Event]:
        async def work(progress: Progress) -> dict[str, Any]:
            return await natbox_hand_over.hand_over(self._fleet, self._settings.natbox, request.to, progress)

        async for event in self._alone(NATBOX, "natbox hand-over", work):
            yield event

    async def Verify(self, request: pb.NameRequest, context: Any) -> AsyncIterator[pb.Event]:
        async def work(progress: Progress) -> dict[str, Any]:
            return await checks.verify(self._fleet, self._journal, _named(request), progress)

        async for event in self._events(request.name, work):
            yield event

    async def Test(self, request: pb.NameRequest, context: Any) -> AsyncIterator[pb.Event]:
        async def work(progress: Progress) -> dict[str, Any]:
            return await checks.test(self._fleet, self._journal, _named(request), progress)

        async for event in self._events(request.name, work):
            yield event

    async def Exec(
        self, inputs: AsyncIterator[pb.CoordinatorExecInput], context: Any
    ) -> AsyncIterator[pb.CoordinatorExecOutput]:
        first = await anext(aiter(inputs), None)
        if first is None or first.WhichOneof("input") != "start":
            raise invalid("exec: the first input must start a command")

        async def data() -> AsyncIterator[bytes]:
            async for item in inputs:
                if item.WhichOneof("input") == "eof":
                    return
                yield item.stdin

        async for output in access.execute(self._fleet, self._journal, first.start, data()):
            yield output

    async def _alone(self, name: str, what: str, work: Work) -> AsyncIterator[pb.Event]:
        await self._claims.take(name, what)

        def release() -> None:
            self._claims.release(name)
            self._catching_up.look(name)

        # Released by the work's own end, not by this generator's: a caller that leaves ends the generator first.
        async for event in self._events(name, work, at_end=release):
            yield event

    async def _events(
        self, name: str, work: Work, *, at_end: Callable[[], object] = lambda: None
    ) -> AsyncIterator[pb.Event]:
        """Run *work*, telling what it tells; the last event has its document. A caller that leaves ends it."""
        queue: asyncio.Queue[pb.Event | None] = asyncio.Queue()
        task = asyncio.create_task(work(Progress(name, self._journal, queue.put_nowait)))
        self._under_way.add(task)

        def ended(_: object) -> None:
            self._under_way.discard(task)
            at_end()
            queue.put_nowait(None)

        task.add_done_callback(ended)
        try:
            while (event := await queue.get()) is not None:
                yield event
            document = await task
            yield pb.Event(state=pb.Event.SUMMARY, document=json.dumps(document))
        finally:
            task.cancel()

    def start(self) -> None:
        """Go on with what waits for hosts that were away. Of two NATBoxes see to it from now on that one works."""
        self._catching_up.look()
        if pair := self._settings.natbox:
            progress = Progress(NATBOX, self._journal, lambda _: None)
            self._watching = asyncio.create_task(Watch(self._fleet, pair, progress, self._claims).run())

    async def stop(self) -> None:
        """Interrupt what is under way, and wait until it has written how it ended."""
        tasks = [*self._under_way, *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._catching_up.stop()


def _document(value: dict[str, Any]) -> pb.Document:
    return pb.Document(json=json.dumps(value))


def _named(request: pb.NameRequest) -> str:
    if not request.name:
        raise invalid("a cluster's name is needed", hint="`caas status` lists them")
    return request.name
