"""NatBox over gRPC: each handler decodes, calls the gatekeeper on a worker thread, and encodes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from natbox.gatekeeper import Gatekeeper
from proto import natbox_pb2 as pb
from proto import natbox_pb2_grpc, types_pb2
from proto.errors import invalid
from proto.model import Cost, GatewayCounters
from proto.names import check_cluster_name
from proto.transport.changes import finished, follow_change, planned
from proto.wire import gateway_table_from_wire, gateway_table_to_wire


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
            removed=self._gatekeeper.removed(),
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
            yield planned(await asyncio.to_thread(self._gatekeeper.plan, desired))
            yield finished(Cost(generation=desired.generation))
            return
        async for event in follow_change(lambda **callbacks: self._gatekeeper.apply(desired, **callbacks)):
            yield event

    async def Destroy(self, request: pb.NatBoxDestroyRequest, context: Any) -> AsyncIterator[types_pb2.ApplyEvent]:
        if not request.cluster:
            raise invalid("destroy: a cluster's name is needed")
        cluster = check_cluster_name(request.cluster)
        async for event in follow_change(
            lambda **callbacks: self._gatekeeper.destroy(
                cluster, generation=request.generation, dry_run=request.dry_run, **callbacks
            )
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
