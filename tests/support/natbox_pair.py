"""Two NATBoxes without kernels behind real gRPC, and the coordinator's fleet over them."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import grpc.aio

from coordinator.config.natbox_pair import NatBoxPair
from coordinator.fleet import NatBoxClient
from natbox.gatekeeper import Gatekeeper
from natbox.handover import HandOver
from natbox.saved import SavedTables
from natbox.service import NatBoxService
from natbox.standing import SavedStanding
from proto import natbox_pb2_grpc
from proto.transport.client import open_unix_channel
from proto.transport.server import Server
from tests.support.natbox_machine import FakeMachine, Segment
from tests.unit.natbox.fake_door import FakeDoor

PAIR = NatBoxPair(
    addresses=(IPv4Address("192.168.2.24"), IPv4Address("192.168.2.23")),
    shared=(IPv4Interface("203.0.113.1/24"),),
)
ONE, OTHER = map(str, PAIR.addresses)


class FakeNatBoxDaemon:
    """One daemon over *machine*; `start` after `stop` is a restart with the same files."""

    def __init__(self, folder: Path, segment: Segment) -> None:
        self.folder, self.machine, self.door = folder, FakeMachine(segment), FakeDoor()
        self._server: Server | None = None
        folder.mkdir()

    async def start(self) -> None:
        self.gatekeeper = Gatekeeper(self.door, SavedTables(self.folder / "desired"))
        self.hand_over = HandOver(self.machine, SavedStanding(self.folder / "role.json"))
        self.hand_over.resume()
        self._server = Server(allowed=None)
        natbox_pb2_grpc.add_NatBoxServicer_to_server(NatBoxService(self.gatekeeper, self.hand_over), self._server.grpc)
        self._server.listen_unix(str(self.folder / "socket"))
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None


class FakePair:
    """coordinator.natbox_pair_client.PairedFleet, as far as NATBoxes go."""

    def __init__(self, folder: Path) -> None:
        segment = Segment()
        self.daemons = {address: FakeNatBoxDaemon(folder / address, segment) for address in (ONE, OTHER)}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def start(self) -> None:
        for address, daemon in self.daemons.items():
            await daemon.start()
            self._channels[address] = open_unix_channel(str(daemon.folder / "socket"))

    async def stop(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await asyncio.gather(*(daemon.stop() for daemon in self.daemons.values()))

    def one_natbox(self, address: str) -> NatBoxClient:
        return NatBoxClient(self._channels[address], peer=f"natbox {address}")

    @property
    def working(self) -> list[str]:
        """Where a packet would pass."""
        return [address for address, daemon in self.daemons.items() if daemon.machine.works]
