"""NATBox in memory: a NatBoxClient that keeps tables, refuses nothing, and answers what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proto import natbox_pb2 as pb
from proto import types_pb2
from proto.model import Action, GatewayTable, Verb
from proto.wire import action_to_wire, gateway_table_to_wire


class FakeNatBox:
    """coordinator.fleet.NatBoxClient. `counters_reply` and `explain_reply` are its answers; `asked` what was asked."""

    def __init__(self, *uplink: str) -> None:
        self.uplink = uplink or ("203.0.113.1/24",)
        self.tables: dict[str, GatewayTable] = {}
        self.writes = 0
        self.counters_reply = pb.NatBoxCountersReply()
        self.explain_reply = pb.NatBoxExplainReply()
        self.asked: list[pb.NatBoxExplainRequest] = []

    async def probe(self, desired: GatewayTable | None = None) -> pb.NatBoxProbeReply:
        generations = {name: table.generation for name, table in self.tables.items()}
        return pb.NatBoxProbeReply(
            version="0",
            kernel="6.1",
            trunk="eth1",
            uplink="eth2",
            uplink_addresses=self.uplink,
            trunk_mtu=1500,
            generations=generations,
        )

    async def observe(self, cluster: str = "") -> pb.NatBoxObserveReply:
        found = [table for name, table in sorted(self.tables.items()) if cluster in ("", name)]
        return pb.NatBoxObserveReply(tables=map(gateway_table_to_wire, found))

    async def plan(self, desired: GatewayTable) -> Sequence[types_pb2.Action]:
        return [action_to_wire(action) for action in self._plan(desired)]

    async def apply(self, desired: GatewayTable, on_event: Any) -> types_pb2.ApplyEvent.Result:
        writes = len(self._plan(desired))
        self.writes += writes
        self.tables[desired.cluster] = desired
        return types_pb2.ApplyEvent.Result(generation=desired.generation, kernel_writes=writes)

    async def destroy(self, cluster: str, on_event: Any, **_: Any) -> types_pb2.ApplyEvent.Result:
        self.writes += self.tables.pop(cluster, None) is not None
        return types_pb2.ApplyEvent.Result()

    async def counters(self, cluster: str) -> pb.NatBoxCountersReply:
        return self.counters_reply

    async def explain(self, request: pb.NatBoxExplainRequest) -> pb.NatBoxExplainReply:
        self.asked.append(request)
        return self.explain_reply

    def _plan(self, desired: GatewayTable) -> list[Action]:
        there = self.tables.get(desired.cluster)
        before = {gateway.vid: gateway for gateway in there.gateways} if there else {}
        return [
            Action(verb=Verb.CHANGE, before=before.get(gateway.vid), after=gateway, why="differs")
            for gateway in desired.gateways
            if before.get(gateway.vid) != gateway
        ]
