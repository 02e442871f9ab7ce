"""The coordinator's clients: one channel to each agent and to each NATBox, kept open. Every call has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Interface
from typing import Any

import grpc.aio

from coordinator.inspections import Inspections, Wanted
from coordinator.steps import Completed
from proto import agent_pb2, agent_pb2_grpc, natbox_pb2, natbox_pb2_grpc, types_pb2
from proto.errors import CaasError, Code
from proto.finding_wire import finding_from_wire
from proto.model import ClusterHost, Finding, GatewayTable
from proto.transport.client import open_channel
from proto.transport.failures import call, error_from_wire, look, stream
from proto.transport.tls import TlsFiles
from proto.wire import cluster_host_to_wire, gateway_table_to_wire

AGENT_PORT = 7443
NATBOX_PORT = 7444
#: In every NATBox's certificate.
NATBOX_NAME = "natbox"
LOOK = 10.0
#: The systemd of a container that boots on a busy machine answers late.
INSPECT = 60.0
#: Above a burst's own length: an interpreter starts, on a machine that may be busy.
BURST_SLACK = 15.0
#: Making or removing 64 containers takes seconds; the agent itself never gives up half-way.
CHANGE = 600.0
#: A connection table of a quarter of a million, and a machine that is busy.
HAND_OVER = 60.0
OnEvent = Callable[[types_pb2.ApplyEvent], None]


class AgentClient:
    """Calls to one agent. Every failure is a CaasError that begins with the host's name."""

    def __init__(
        self, host: str, channel: grpc.aio.Channel, connect: Callable[[], grpc.aio.Channel] | None = None
    ) -> None:
        """*connect* opens a channel with a connection of its own; without it there is *channel* only."""
        self.host = host
        self._connect = connect
        self._stub = agent_pb2_grpc.NodeAgentStub(channel)
        self.inspections = Inspections(self._inspect)

    @contextlib.asynccontextmanager
    async def anew(self) -> AsyncIterator[AgentClient]:
        """A client of the same agent over a new connection, which proves that the network between the two works now."""
        if self._connect is None:
            yield self
            return
        async with self._connect() as channel:
            yield AgentClient(self.host, channel)

    async def probe(self, desired: ClusterHost | None = None, *, cluster: str = "") -> agent_pb2.ProbeReply:
        """What the host is and lacks; with *desired*, also what that needs. What *cluster* has is not taken."""
        request = agent_pb2.ProbeRequest(cluster=cluster, desired=cluster_host_to_wire(desired) if desired else None)
        return await look(lambda: self._stub.Probe(request, timeout=LOOK), self.host)

    async def observe(self, cluster: str, *, log_lines: int = 0) -> agent_pb2.ObserveReply:
        """What *cluster* has on the host; with it the last *log_lines* of the agent's log about it."""
        request = agent_pb2.ObserveRequest(cluster=cluster, log_lines=log_lines)
        return await look(lambda: self._stub.Observe(request, timeout=LOOK), self.host)

    async def _inspect(self, request: agent_pb2.InspectRequest) -> agent_pb2.InspectReply:
        return await call(self._stub.Inspect(request, timeout=INSPECT), self.host)

    async def burst(self, request: agent_pb2.BurstRequest) -> agent_pb2.BurstReply:
        """Ask from containers whom they reach."""
        limit = request.settle + request.seconds + BURST_SLACK
        return await call(self._stub.Burst(request, timeout=limit), self.host)

    async def examine(self, cluster: str) -> Sequence[Finding]:
        """What on the host can keep packets of *cluster* from passing."""
        reply = await call(self._stub.Examine(agent_pb2.ExamineRequest(cluster=cluster), timeout=LOOK), self.host)
        return [finding_from_wire(found) for found in reply.findings]

    async def doctor(self) -> Sequence[agent_pb2.DoctorReply.Complaint]:
        """What is wrong with the host itself."""
        reply = await call(self._stub.Doctor(agent_pb2.DoctorRequest(), timeout=LOOK), self.host)
        return tuple(reply.complaints)

    async def find_passages(self, request: agent_pb2.FindPassagesRequest) -> agent_pb2.FindPassagesReply:
        """What passes between the host and others, which have to be asked at the same time."""
        return await call(self._stub.FindPassages(request, timeout=LOOK + request.seconds), self.host)

    async def plan(self, desired: ClusterHost) -> Sequence[types_pb2.Action]:
        """What `apply` would do."""
        request = agent_pb2.ApplyRequest(desired=cluster_host_to_wire(desired), dry_run=True)
        return await _planned(stream(self._stub.Apply(request, timeout=LOOK), self.host))

    async def apply(
        self, desired: ClusterHost, on_event: OnEvent, *, confirm_within: float = 0.0
    ) -> types_pb2.ApplyEvent.Result:
        """Make the host as desired; events as they come. The agent takes a change of the network back that nobody
        confirms within so many seconds (0: it does not)."""
        request = agent_pb2.ApplyRequest(desired=cluster_host_to_wire(desired), confirm_within=confirm_within)
        return await _finish(stream(self._stub.Apply(request, timeout=CHANGE), self.host), on_event, self.host)

    async def confirm(self, cluster: str, generation: int, *, hold: bool, timeout: float) -> None:
        """The change to *generation* stays; or, to *hold* it, its time begins anew."""
        request = agent_pb2.ConfirmRequest(cluster=cluster, generation=generation, hold=hold)
        await call(self._stub.Confirm(request, timeout=timeout), self.host)

    async def destroy(self, cluster: str, on_event: OnEvent, *, generation: int = 0) -> types_pb2.ApplyEvent.Result:
        """Remove everything of *cluster* from the host. STALE where its generation is not below *generation*, unless
        that is 0."""
        request = agent_pb2.DestroyRequest(cluster=cluster, generation=generation)
        return await _finish(stream(self._stub.Destroy(request, timeout=CHANGE), self.host), on_event, self.host)

    async def exec(
        self,
        cluster: str,
        container: str,
        argv: Sequence[str],
        *,
        inputs: AsyncIterator[bytes],
        on_output: Callable[[agent_pb2.ExecOutput], Awaitable[None]],
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run *argv* in a container; returns its status when both output streams have ended."""

        ended = asyncio.Event()

        async def requests() -> AsyncIterator[agent_pb2.ExecInput]:
            start = agent_pb2.ExecInput.Start(cluster=cluster, hostname=container, argv=argv, env=env or {})
            yield agent_pb2.ExecInput(start=start)
            async for data in _until(ended, inputs):
                yield agent_pb2.ExecInput(stdin=data)
            yield agent_pb2.ExecInput(eof=True)

        status: int | None = None
        failure: CaasError | None = None
        async for output in stream(self._stub.Exec(requests(), timeout=timeout), self.host):
            match output.WhichOneof("output"):
                case "status":
                    status = output.status
                    ended.set()
                case "error":
                    failure = error_from_wire(output.error).about(self.host)
                    ended.set()
                case _:
                    await on_output(output)
        if failure is not None:
            raise failure
        if status is None:
            raise CaasError(Code.FAILED, f"{self.host}: {argv[0]} in {container} ended without a status")
        return status


class NatBoxClient:
    """Calls to NATBox. Every failure is a CaasError that begins with *peer*."""

    def __init__(self, channel: grpc.aio.Channel, *, peer: str = NATBOX_NAME) -> None:
        self.peer = peer
        self._stub = natbox_pb2_grpc.NatBoxStub(channel)

    async def probe(self, desired: GatewayTable | None = None) -> natbox_pb2.NatBoxProbeReply:
        """What NATBox is and lacks."""
        request = natbox_pb2.NatBoxProbeRequest(desired=gateway_table_to_wire(desired) if desired else None)
        return await look(lambda: self._stub.Probe(request, timeout=LOOK), self.peer)

    async def plan(self, desired: GatewayTable) -> Sequence[types_pb2.Action]:
        """What `apply` would do."""
        request = natbox_pb2.NatBoxApplyRequest(desired=gateway_table_to_wire(desired), dry_run=True)
        return await _planned(stream(self._stub.Apply(request, timeout=LOOK), self.peer))

    async def apply(self, desired: GatewayTable, on_event: OnEvent) -> types_pb2.ApplyEvent.Result:
        """Make one cluster's table as desired."""
        request = natbox_pb2.NatBoxApplyRequest(desired=gateway_table_to_wire(desired))
        return await _finish(stream(self._stub.Apply(request, timeout=CHANGE), self.peer), on_event, self.peer)

    async def observe(self, cluster: str) -> natbox_pb2.NatBoxObserveReply:
        """The tables that its kernel has; *cluster* "" is all."""
        request = natbox_pb2.NatBoxObserveRequest(cluster=cluster)
        return await look(lambda: self._stub.Observe(request, timeout=LOOK), self.peer)

    async def explain(self, packet: natbox_pb2.NatBoxExplainRequest) -> natbox_pb2.NatBoxExplainReply:
        """What it would do with *packet*, and why."""
        return await call(self._stub.Explain(packet, timeout=LOOK), self.peer)

    async def standing(self, *, timeout: float) -> natbox_pb2.NatBoxStandingReply:
        """Which part it has where there are two."""
        return await call(self._stub.Standing(natbox_pb2.NatBoxStandingRequest(), timeout=timeout), self.peer)

    async def step_down(self, epoch: int) -> list[natbox_pb2.NatBoxConnections]:
        """Have it cease to work; its connections."""
        request = natbox_pb2.NatBoxStepDownRequest(epoch=epoch)
        return [some async for some in stream(self._stub.StepDown(request, timeout=HAND_OVER), self.peer)]

    async def take_over(
        self,
        epoch: int,
        shared: Sequence[IPv4Interface],
        connections: Sequence[natbox_pb2.NatBoxConnections] = (),
        *,
        unless_alive: bool = False,
    ) -> natbox_pb2.NatBoxTakeOverReply:
        """Have it work with the addresses *shared* and *connections*. CONFLICT where (*unless_alive*) another does."""
        start = natbox_pb2.NatBoxTakeOverRequest.Start(epoch=epoch, shared=map(str, shared), unless_alive=unless_alive)
        requests = [
            natbox_pb2.NatBoxTakeOverRequest(start=start),
            *(natbox_pb2.NatBoxTakeOverRequest(connections=some) for some in connections),
        ]
        return await call(self._stub.TakeOver(iter(requests), timeout=HAND_OVER), self.peer)

    async def counters(self, cluster: str) -> natbox_pb2.NatBoxCountersReply:
        """What passed, by VID."""
        request = natbox_pb2.NatBoxCountersRequest(cluster=cluster)
        return await call(self._stub.Counters(request, timeout=LOOK), self.peer)

    async def destroy(self, cluster: str, on_event: OnEvent, *, generation: int = 0) -> types_pb2.ApplyEvent.Result:
        """Remove a cluster's table. STALE where its generation is not below *generation*, unless that is 0."""
        request = natbox_pb2.NatBoxDestroyRequest(cluster=cluster, generation=generation)
        return await _finish(stream(self._stub.Destroy(request, timeout=CHANGE), self.peer), on_event, self.peer)


class Fleet:
    """The open channels, by what they are for. Made when first asked for."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def agent(self, host: str, address: str) -> AgentClient:
        """The agent of *host* at its management address; its certificate must bear the host's name."""
        where = _with_port(address, AGENT_PORT)
        connect = partial(open_channel, where, self._tls, server_name=host, own_connection=True)
        return AgentClient(host, self._channel(where, host), connect)

    def natbox(self, address: str) -> NatBoxClient:
        """NATBox at its management address."""
        return NatBoxClient(self._channel(_with_port(address, NATBOX_PORT), NATBOX_NAME))

    def one_natbox(self, address: str) -> NatBoxClient:
        """The very NATBox at *address*, also where it is one of a pair."""
        channel = self._channel(_with_port(address, NATBOX_PORT), NATBOX_NAME)
        return NatBoxClient(channel, peer=f"{NATBOX_NAME} {address}")

    def natbox_names(self, address: str) -> tuple[str, ...]:
        """The management addresses that stand for the NATBox at *address*: where one of two works, those of both."""
        return (address,)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        self._channels.clear()

    def _channel(self, address: str, server_name: str) -> grpc.aio.Channel:
        key = (address, server_name)
        if key not in self._channels:
            self._channels[key] = open_channel(address, self._tls, server_name=server_name)
        return self._channels[key]


class AgentShell:
    """coordinator.steps.Shell over an agent's Exec."""

    def __init__(self, agent: AgentClient, cluster: str, container: str) -> None:
        self._agent = agent
        self._cluster = cluster
        self._container = container

    @property
    def container(self) -> str:
        return self._container

    async def inspect(self, wanted: Wanted) -> Mapping[str, Any] | None:
        try:
            return await self._agent.inspections.look(self._cluster, self._container, wanted)
        except CaasError as exc:
            if exc.code is Code.UNSUPPORTED:  # an agent of an earlier version
                return None
            raise

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        """Run *argv* and wait; its output is kept whole. TIMEOUT after *timeout* seconds: it is killed."""
        stdout, stderr = bytearray(), bytearray()

        async def collect(output: agent_pb2.ExecOutput) -> None:
            stdout.extend(output.stdout)
            stderr.extend(output.stderr)

        async def inputs() -> AsyncIterator[bytes]:
            for start in range(0, len(stdin), 1 << 16):
                yield stdin[start : start + (1 << 16)]

        status = await self._agent.exec(
            self._cluster, self._container, argv, inputs=inputs(), on_output=collect, timeout=timeout
        )
        if check and status != 0:
            last = (bytes(stderr) or bytes(stdout)).decode(errors="replace").strip().splitlines()[-8:]
            raise CaasError(
                Code.FAILED,
                f"{self._container}: {argv[0]} ended with {status}: " + " | ".join(last),
                hint=f"`caas logs {self._cluster}`",
            )
        return Completed(status=status, stdout=bytes(stdout), stderr=bytes(stderr))


async def _next(items: AsyncIterator[bytes]) -> bytes | None:
    return await anext(items, None)


async def _until(ended: asyncio.Event, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """*items* until they end or *ended* is set: a command that has ended needs no more input."""
    end = asyncio.ensure_future(ended.wait())
    try:
        while True:
            item = asyncio.ensure_future(_next(items))
            await asyncio.wait((item, end), return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                return
            data = item.result()
            if data is None or end.done():
                return
            yield data
    finally:
        end.cancel()


def _with_port(address: str, port: int) -> str:
    return address if ":" in address else f"{address}:{port}"


async def _planned(events: AsyncIterator[types_pb2.ApplyEvent]) -> Sequence[types_pb2.Action]:
    actions: list[types_pb2.Action] = []
    async for event in events:
        if event.WhichOneof("event") == "planned":
            actions = list(event.planned.actions)
    return actions


async def _finish(
    events: AsyncIterator[types_pb2.ApplyEvent], on_event: OnEvent, peer: str
) -> types_pb2.ApplyEvent.Result:
    result: types_pb2.ApplyEvent.Result | None = None
    async for event in events:
        on_event(event)
        if event.WhichOneof("event") == "result":
            result = event.result
    if result is None:
        raise CaasError(Code.FAILED, f"{peer}: it ended without a result", hint="see its log")
    return result
