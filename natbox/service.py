"""NatBox over gRPC: each handler decodes, calls the gatekeeper on a worker thread, and encodes."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator
from importlib.metadata import version
from ipaddress import IPv4Interface
from typing import Any

from agent.kernel.natbox_carried import uncollected
from natbox.alarms import make_alarms
from natbox.explain import Packet
from natbox.gatekeeper import Gatekeeper
from natbox.handover import HandOver
from proto import natbox_pb2 as pb
from proto import natbox_pb2_grpc, types_pb2
from proto.connection_wire import connection_from_wire, connection_to_wire
from proto.errors import invalid
from proto.model import Connection, Cost, Gateway, GatewayCounters
from proto.names import check_cluster_name
from proto.transport.changes import finished, follow_change, planned
from proto.wire import gateway_table_from_wire, gateway_table_to_wire

#: About 100 KiB in one message.
CONNECTIONS_AT_ONCE = 2000


class NatBoxService(natbox_pb2_grpc.NatBoxServicer):
    """The service of one NATBox."""

    def __init__(self, gatekeeper: Gatekeeper, hand_over: HandOver) -> None:
        self._gatekeeper = gatekeeper
        self._hand_over = hand_over

    async def Probe(self, request: pb.NatBoxProbeRequest, context: Any) -> pb.NatBoxProbeReply:
        if request.HasField("desired"):
            await asyncio.to_thread(self._gatekeeper.check, gateway_table_from_wire(request.desired))
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
        counted, totals = await asyncio.to_thread(self._gatekeeper.counters, request.cluster)
        return pb.NatBoxCountersReply(
            counters=[_counters_to_wire(gateway, counters) for gateway, counters in counted],
            trunk_drops=dict(totals.drops),
            connections=totals.connections,
            connections_max=totals.connections_max,
            alarms=make_alarms(counted, totals),
        )

    async def Explain(self, request: pb.NatBoxExplainRequest, context: Any) -> pb.NatBoxExplainReply:
        explanation = await asyncio.to_thread(self._gatekeeper.explain, _packet_from_wire(request))
        owner = explanation.owner
        return pb.NatBoxExplainReply(
            verdict=explanation.verdict,
            reason=explanation.reason,
            cluster=owner.cluster if owner is not None else "",
            network=owner.network if owner is not None else "",
            steps=explanation.steps,
        )

    async def Standing(self, request: pb.NatBoxStandingRequest, context: Any) -> pb.NatBoxStandingReply:
        standing = self._hand_over.standing
        return pb.NatBoxStandingReply(
            role=standing.role.value,
            epoch=standing.epoch,
            shared=map(str, standing.shared),
            unfit=await asyncio.to_thread(self._hand_over.unfit),
            generations=self._gatekeeper.generations(),
        )

    async def StepDown(self, request: pb.NatBoxStepDownRequest, context: Any) -> AsyncIterator[pb.NatBoxConnections]:
        with uncollected():
            connections = await asyncio.to_thread(self._hand_over.step_down, request.epoch)
            for start in range(0, len(connections), CONNECTIONS_AT_ONCE):
                some = connections[start : start + CONNECTIONS_AT_ONCE]
                yield pb.NatBoxConnections(connections=map(connection_to_wire, some))

    async def TakeOver(self, requests: AsyncIterator[pb.NatBoxTakeOverRequest], context: Any) -> pb.NatBoxTakeOverReply:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("request") != "start":
            raise invalid("take over: the first request must say `start`")
        start = first.start
        shared = [_interface(address) for address in start.shared]
        connections: list[Connection] = []
        with uncollected():
            async for request in requests:
                connections += map(connection_from_wire, request.connections.connections)
            done = await asyncio.to_thread(
                self._hand_over.take_over, start.epoch, shared, connections, unless_alive=start.unless_alive
            )
        return pb.NatBoxTakeOverReply(connections=done.connections, refused=done.refused, seconds=done.seconds)


def _interface(text: str) -> IPv4Interface:
    try:
        return IPv4Interface(text)
    except ValueError as exc:
        raise invalid(f"take over: shared address {text!r}: {exc}", hint="as 203.0.113.1/24") from exc


def _counters_to_wire(gateway: Gateway, counters: GatewayCounters) -> pb.NatBoxCountersReply.PerVid:
    return pb.NatBoxCountersReply.PerVid(
        vid=counters.vid,
        out_packets=counters.out_packets,
        out_bytes=counters.out_bytes,
        in_packets=counters.in_packets,
        in_bytes=counters.in_bytes,
        drops=dict(counters.drops),
        cluster=gateway.cluster,
        network=gateway.network,
        connections=counters.connections,
        connections_max=counters.connections_max,
    )


def _packet_from_wire(message: pb.NatBoxExplainRequest) -> Packet:
    return Packet(
        from_uplink=message.from_uplink,
        vid=message.vid,
        source=_address("source", message.source),
        destination=_address("destination", message.destination),
        protocol=message.protocol,
        source_port=message.source_port,
        destination_port=message.destination_port,
        mac=message.source_mac,
    )


def _address(what: str, text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise invalid(f"packet: {what} {text!r}: an IPv4 address is needed") from exc
