"""The site's two NATBoxes as one: what clusters ask for is done by the one that works, and kept by the other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from coordinator.config.natbox_pair import NatBoxPair
from coordinator.fleet import Fleet, NatBoxClient, OnEvent
from coordinator.natbox_hand_over import find_active
from proto import natbox_pb2, types_pb2
from proto.errors import CaasError
from proto.model import GatewayTable
from proto.transport.tls import TlsFiles

log = logging.getLogger(__name__)


class PairedFleet(Fleet):
    """The fleet of a site with two NATBoxes: by the address of either, clusters get the one that works."""

    def __init__(self, tls: TlsFiles, pair: NatBoxPair) -> None:
        super().__init__(tls)
        self._pair = pair

    def natbox(self, address: str) -> NatBoxClient:
        return NatBoxPairClient(self, self._pair) if self._pair.has(address) else super().natbox(address)

    def natbox_names(self, address: str) -> tuple[str, ...]:
        return tuple(map(str, self._pair.addresses)) if self._pair.has(address) else super().natbox_names(address)


class NatBoxPairClient(NatBoxClient):
    """Calls to whichever works at the time of the call. What the standby misses the watch makes good."""

    def __init__(self, fleet: Fleet, pair: NatBoxPair) -> None:
        self._fleet, self._pair = fleet, pair

    async def probe(self, desired: GatewayTable | None = None) -> natbox_pb2.NatBoxProbeReply:
        """As of the one that works; of its uplink's addresses the shared ones come first: others do not go along."""
        reply = await (await self._working()).probe(desired)
        shared = set(map(str, self._pair.shared))
        reply.uplink_addresses[:] = sorted(reply.uplink_addresses, key=lambda address: address not in shared)
        return reply

    async def plan(self, desired: GatewayTable) -> Sequence[types_pb2.Action]:
        return await (await self._working()).plan(desired)

    async def counters(self, cluster: str) -> natbox_pb2.NatBoxCountersReply:
        return await (await self._working()).counters(cluster)

    async def explain(self, packet: natbox_pb2.NatBoxExplainRequest) -> natbox_pb2.NatBoxExplainReply:
        return await (await self._working()).explain(packet)

    async def observe(self, cluster: str) -> natbox_pb2.NatBoxObserveReply:
        return await (await self._working()).observe(cluster)

    async def apply(self, desired: GatewayTable, on_event: OnEvent) -> types_pb2.ApplyEvent.Result:
        """The result is that of the one that works."""
        return await self._both(lambda client, told: client.apply(desired, told), on_event)

    async def destroy(self, cluster: str, on_event: OnEvent, *, generation: int = 0) -> types_pb2.ApplyEvent.Result:
        return await self._both(lambda client, told: client.destroy(cluster, told, generation=generation), on_event)

    async def _working(self) -> NatBoxClient:
        return (await find_active(self._fleet, self._pair))[0].client

    async def _both(
        self,
        change: Callable[[NatBoxClient, OnEvent], Awaitable[types_pb2.ApplyEvent.Result]],
        on_event: OnEvent,
    ) -> types_pb2.ApplyEvent.Result:
        working, other = await find_active(self._fleet, self._pair)
        result = await change(working.client, on_event)
        if other.standing is not None:
            try:
                await change(other.client, lambda _: None)
            except CaasError as exc:
                log.warning("NATBox %s, the standby: %s", other.address, exc)
        return result
