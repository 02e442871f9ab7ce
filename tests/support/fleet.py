"""A fleet in memory: agents with fake doors behind real gRPC on unix sockets, containers that answer like nova's."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc.aio

from agent.core.doors import ForeignLink
from agent.host import Host
from agent.recent import RecentLines
from agent.rpc.service import NodeAgent
from agent.saved import SavedStates
from coordinator.fleet import AgentClient, NatBoxClient
from coordinator.keepsake import PATH as SECRETS_PATH
from coordinator.steps import Completed
from proto import agent_pb2_grpc
from proto.errors import CaasError, Code
from proto.transport.client import open_unix_channel
from proto.transport.server import Server
from tests.support.clock import FakeClock
from tests.support.fake_natbox import FakeNatBox
from tests.support.fake_nova import FakeCluster, FakeContainer
from tests.support.fakes import FakeContainers, FakeKernel, FakeLeftovers, FakeLook


class FakeProcess:
    """A command in a FakeContainer: runs when its input has ended."""

    def __init__(self, container: FakeContainer, kept: dict[str, bytes], argv: Sequence[str]) -> None:
        self.stdin = _Sink()
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._task = asyncio.create_task(self._run(container, kept, argv))

    async def _run(self, container: FakeContainer, kept: dict[str, bytes], argv: Sequence[str]) -> int:
        await self.stdin.ended.wait()
        try:
            done = await _answer(container, kept, argv, bytes(self.stdin.data))
        except CaasError as exc:
            done = Completed(status=1, stdout=b"", stderr=exc.message.encode())
        self.stdout.feed_data(done.stdout)
        self.stderr.feed_data(done.stderr)
        self.stdout.feed_eof()
        self.stderr.feed_eof()
        return done.status

    async def wait(self) -> int:
        return await self._task

    async def close(self) -> None:
        self._task.cancel()


class _Sink:
    """The write end of a pipe, kept in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None: ...

    def close(self) -> None:
        self.ended.set()


async def _answer(container: FakeContainer, kept: dict[str, bytes], argv: Sequence[str], stdin: bytes) -> Completed:
    """The few programs of the base system that the coordinator uses by itself; the rest is nova's."""
    import hashlib

    key = f"{container.container}:{SECRETS_PATH}"
    match argv[0]:
        case "sha256sum" if key in kept:
            return Completed(status=0, stdout=hashlib.sha256(kept[key]).hexdigest().encode() + b"  x\n", stderr=b"")
        case "cat" if key in kept:
            return Completed(status=0, stdout=kept[key], stderr=b"")
        case "sha256sum" | "cat":
            return Completed(status=1, stdout=b"", stderr=b"no such file")
        case "sh" if argv[1] == "-s":  # coordinator.unique
            return Completed(status=0, stdout=f"machine-id={container.container}\n".encode(), stderr=b"")
        case "sh" if "journalctl" in argv[2]:  # coordinator.logs
            return Completed(status=0, stdout=f"a warning of {container.container}\n".encode(), stderr=b"")
        case "sh":
            kept[key] = stdin
            return Completed(status=0, stdout=b"", stderr=b"")
    return await container.run(argv, stdin=stdin)


class FakeExec:
    """ExecDoor of one host: its containers must run."""

    def __init__(self, containers: FakeContainers, world: FakeFleet) -> None:
        self._containers, self._world = containers, world

    async def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str]) -> FakeProcess:
        found = self._containers.containers.get(name)
        if found is None or not found.running:
            raise CaasError(Code.NOT_FOUND, f"container {name} is not there, or does not run")
        hostname = name.partition(".")[2]
        inside = self._world.inside.setdefault(hostname, FakeContainer(self._world.nova, hostname))
        return FakeProcess(inside, self._world.kept, argv)


class FakeFleet:
    """coordinator.fleet.Fleet over agents in this process. `hosts` are made when first asked for, unless away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.nova = FakeCluster()
        self.inside: dict[str, FakeContainer] = {}
        self.kept: dict[str, bytes] = {}
        self.kernels: dict[str, FakeKernel] = {}
        self.containers: dict[str, FakeContainers] = {}
        self.looks: dict[str, FakeLook] = {}
        self.natboxes: dict[str, FakeNatBox] = {}
        self.pair: tuple[str, ...] = ()
        self.leftovers: dict[str, FakeLeftovers] = {}
        self.recent: dict[str, RecentLines] = {}
        self._servers: dict[str, Server] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def start(self, *hosts: str) -> None:
        """An agent for each of *hosts*, with a trunk eth1."""
        for name in hosts:
            trunk = ForeignLink(name="eth1", kind="veth", mtu=1500, up=True)
            kernel, containers = FakeKernel(foreign=[trunk]), FakeContainers()
            self.kernels[name], self.containers[name] = kernel, containers
            await self.start_agent(name)

    async def start_agent(self, name: str) -> None:
        """The agent of a host that is there already, with what it has saved."""
        kernel, containers = self.kernels[name], self.containers[name]
        looks = self.leftovers.setdefault(name, FakeLeftovers())
        recent = self.recent.setdefault(name, RecentLines())
        logging.getLogger("agent").addHandler(recent)
        host = Host(name, kernel, containers, SavedStates(self.folder / name), clock=self.clock, leftovers=looks)
        server = Server(allowed=None)
        self.looks[name] = FakeLook()
        service = NodeAgent(host, FakeExec(containers, self), self.looks[name], recent=recent)  # type: ignore[arg-type]
        agent_pb2_grpc.add_NodeAgentServicer_to_server(service, server.grpc)
        server.listen_unix(str(self.folder / f"{name}.sock"))
        await server.start()
        self._servers[name] = server

    async def stop(self) -> None:
        for recent in self.recent.values():
            logging.getLogger("agent").removeHandler(recent)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await asyncio.gather(*(server.stop(grace=0) for server in self._servers.values()))

    async def stop_agent(self, host: str) -> None:
        """From now on it does not answer."""
        await self._servers.pop(host).stop(grace=0)

    def agent(self, host: str, address: str) -> AgentClient:
        if host not in self._channels:
            self._channels[host] = open_unix_channel(str(self.folder / f"{host}.sock"))
        return AgentClient(host, self._channels[host])

    def natbox(self, address: str) -> NatBoxClient:
        if address not in self.natboxes:
            raise AssertionError(f"no NATBox at {address} in this fleet")
        return self.natboxes[address]  # type: ignore[return-value]

    def natbox_names(self, address: str) -> tuple[str, ...]:
        """Those of `pair` are of one NATBox."""
        return self.pair if address in self.pair else (address,)

    def writes(self) -> int:
        """Changing calls of all doors so far."""
        return sum(door.writes for door in (*self.kernels.values(), *self.containers.values()))

    def secrets(self) -> dict[str, str]:
        """What is kept beside the API."""
        (text,) = self.kept.values()
        found: dict[str, str] = json.loads(text)
        return found
