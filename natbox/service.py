"""NatBox over gRPC: each handler decodes, calls the gatekeeper on a worker thread, and encodes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

from natbox.gatekeeper import Gatekeeper, Result
from proto import natbox_pb2 as pb
from proto import natbox_pb2_grpc, types_pb2
from proto.errors import CaasError, invalid
from proto.model import Action, GatewayCounters, Plan
from proto.names import check_cluster_name
from proto.wire import action_to_wire, gateway_table_from_wire, gateway_table_to_wire


class NatBoxService(natbox_pb2_grpc.NatBoxServicer):
    """The service of one NATBox."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper

    async def Probe(self, request: pb.NatBoxProbeRequest, context: Any) -> pb.NatBoxProbeReply:
        if request.HasField("desired"):
            self._gatekeeper.check(gateway_table_from_wire(request.desired))
        return await asyncio.to_thread(self._probe)

    def _probe(self) -> pb.NatBoxProbeReply:
        door = self._gatekeeper.door
        lacks = [types_pb2.Lack(what=what, mend=mend) for what, mend in door.lacks()]
        reply = pb.NatBoxProbeReply(
            version=version("caas"),
            kernel=os.uname().release,
            trunk=door.path.trunk,
            uplink=door.path.uplink,
            lacks=lacks,
            generations=self._gatekeeper.generations(),
        )
        if not lacks:
            reply.uplink_addresses.extend(str(address) for address in door.uplink_addresses())
            reply.trunk_mtu = door.trunk_mtu()
        return reply

    async def Observe(self, request: pb.NatBoxObserveRequest, context: Any) -> pb.NatBoxObserveReply:
        tables = await asyncio.to_thread(self._gatekeeper.observe, request.cluster)
        return pb.NatBoxObserveReply(tables=map(gateway_table_to_wire, tables))

    async def Apply(self, request: pb.NatBoxApplyRequest, context: Any) -> AsyncIterator[types_pb2.ApplyEvent]:
        desired = gateway_table_from_wire(request.desired)
        if request.dry_run:
            yield _planned(await asyncio.to_thread(self._gatekeeper.plan, desired))
            yield _result(Result(generation=desired.generation, kernel_writes=0))
            return
        async for event in _events(lambda **callbacks: self._gatekeeper.apply(desired, **callbacks)):
            yield event

    async def Destroy(self, request: pb.NatBoxDestroyRequest, context: Any) -> AsyncIterator[types_pb2.ApplyEvent]:
        if not request.cluster:
            raise invalid("destroy: a cluster's name is needed")
        cluster = check_cluster_name(request.cluster)
        async for event in _events(
            lambda **callbacks: self._gatekeeper.destroy(cluster, dry_run=request.dry_run, **callbacks)
        ):
            yield event

    async def Counters(self, request: pb.NatBoxCountersRequest, context: Any) -> pb.NatBoxCountersReply:
        counters, drops = await asyncio.to_thread(self._gatekeeper.counters, request.cluster)
        return pb.NatBoxCountersReply(counters=map(_counters_to_wire, counters), trunk_drops=drops)


def _counters_to_wire(counters: GatewayCounters) -> pb.NatBoxCountersReply.PerVid:
    return pb.NatBoxCountersReply.PerVid(
        vid=counters.vid,
        out_packets=counters.out_packets,
        out_bytes=counters.out_bytes,
        in_packets=counters.in_packets,
        in_bytes=counters.in_bytes,
        drops=dict(counters.drops),
    )


async def _events(operation: Callable[..., Result]) -> AsyncIterator[types_pb2.ApplyEvent]:
    """Run *operation* on a thread; its plan, each finished action and its result as events.

    A caller that goes away does not interrupt it: a half-made table would be worse than a made one.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[types_pb2.ApplyEvent | None] = asyncio.Queue()
    index: dict[int, int] = {}
    began = loop.time()

    def emit(event: types_pb2.ApplyEvent | None) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def on_plan(plan: Plan) -> None:
        index.update({id(action): number for number, action in enumerate(plan)})
        emit(_planned(plan))

    def on_done(action: Action) -> None:
        finished = types_pb2.ApplyEvent.Finished(index=index[id(action)], seconds=loop.time() - began)
        emit(types_pb2.ApplyEvent(finished=finished))

    def run() -> Result | CaasError:
        try:
            return operation(on_plan=on_plan, on_done=on_done)
        except CaasError as error:
            return error
        finally:
            emit(None)

    work = asyncio.ensure_future(asyncio.to_thread(run))
    while (event := await queue.get()) is not None:
        yield event
    outcome = await work
    if isinstance(outcome, CaasError):
        raise outcome
    yield _result(outcome)


def _planned(plan: Plan) -> types_pb2.ApplyEvent:
    return types_pb2.ApplyEvent(planned=types_pb2.ApplyEvent.Planned(actions=map(action_to_wire, plan)))


def _result(result: Result) -> types_pb2.ApplyEvent:
    return types_pb2.ApplyEvent(
        result=types_pb2.ApplyEvent.Result(generation=result.generation, kernel_writes=result.kernel_writes)
    )
