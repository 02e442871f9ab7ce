"""NodeAgent: each handler decodes, calls the host on a worker thread, and encodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from ipaddress import IPv4Address
from typing import Any, Protocol, TypeVar

from agent.confirming import check_within
from agent.core.doors import DoctorDoor, Inspection, LookDoor, Question, Search
from agent.core.drift import Drift
from agent.host import Host
from agent.nameservers import read_nameservers
from agent.reach import Reach
from agent.recent import RecentLines
from proto import agent_pb2 as pb
from proto import agent_pb2_grpc, types_pb2
from proto.errors import CaasError, Code, invalid
from proto.finding_wire import finding_to_wire
from proto.model import KIND_IPIP, KIND_VXLAN, ClusterHost, Cost
from proto.names import make_lxc_name
from proto.transport.changes import finished, follow_change, planned
from proto.transport.failures import error_to_wire
from proto.wire import cluster_host_from_wire, container_to_wire, host_state_to_wire

T = TypeVar("T")
#: Bytes of a search's nonce, and the longest that one may take, in seconds.
NONCE, SEARCH_MAX = 16, 5.0
METHODS = (KIND_IPIP, KIND_VXLAN)
CHUNK = 64 << 10
#: Seconds that a caller has to end its input after the command has ended.
LAST_INPUT = 5.0
#: How many of the last events of drift are told at once.
DRIFT_SHOWN = 50
#: Of the agent's log, at once.
LOG_LINES_MAX = 500


class Process(Protocol):
    """A command that runs in a container."""

    @property
    def stdin(self) -> asyncio.StreamWriter: ...
    @property
    def stdout(self) -> asyncio.StreamReader: ...
    @property
    def stderr(self) -> asyncio.StreamReader: ...
    async def wait(self) -> int: ...
    async def close(self) -> None:
        """Kill it if it still runs, and let go of its streams."""


class ExecDoor(Protocol):
    """Starts commands in containers."""

    async def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str]) -> Process: ...


class NodeAgent(agent_pb2_grpc.NodeAgentServicer):
    """The service of one host."""

    def __init__(
        self,
        host: Host,
        exec_door: ExecDoor,
        look: LookDoor,
        doctor: DoctorDoor | None = None,
        *,
        recent: RecentLines | None = None,
    ) -> None:
        self._host = host
        self._exec = exec_door
        self._reach = Reach(host, look)
        self._doctor = doctor
        self._recent = recent or RecentLines()

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:
        desired = cluster_host_from_wire(request.desired) if request.HasField("desired") else None
        return await asyncio.to_thread(self._probe, request.cluster, desired)

    def _probe(self, cluster: str, desired: ClusterHost | None) -> pb.ProbeReply:
        host = self._host
        datapath = host.kernel.datapath()
        network = host.kernel.observe()
        taken = host.taken(desired.cluster if desired else cluster, network)
        return pb.ProbeReply(
            host=host.name,
            version=version("caas"),
            kernel=os.uname().release,
            datapath_vlan=datapath.vlan,
            datapath_ipip=datapath.ipip,
            datapath_vxlan=datapath.vxlan,
            lacks=[types_pb2.Lack(what=lack.what, mend=lack.mend) for lack in host.lacks(desired)],
            links=[
                pb.ProbeReply.HostLink(
                    name=link.name, kind=link.kind, mtu=link.mtu, up=link.up, addresses=map(str, link.addresses)
                )
                for link in network.foreign.values()
            ],
            routes=[str(route) for route in host.kernel.live_routes()],
            memory_available_bytes=_memory_available(),
            generations=host.generations(),
            removed=host.removed(),
            unconfirmed=host.unconfirmed(),
            taken_back=host.taken_back(),
            taken_links=taken.links,
            taken_subnets=map(str, taken.subnets),
            taken_ports=taken.ports,
            keyless=host.containers.keyless(),
            nameservers=read_nameservers(),
        )

    async def Observe(self, request: pb.ObserveRequest, context: Any) -> pb.ObserveReply:
        network, containers = await asyncio.to_thread(self._host.observe)
        seen = [
            pb.ObserveReply.Seen(
                container=container_to_wire(found.container), pid=found.pid, memory_bytes=found.memory_bytes
            )
            for found in containers
            if request.cluster in ("", found.container.cluster)
        ]
        return pb.ObserveReply(
            network=host_state_to_wire(network.state),
            containers=seen,
            generations=self._host.generations(),
            drift=[_drift_to_wire(event) for event in self._host.drift.last(request.cluster)[-DRIFT_SHOWN:]],
            log=self._recent.about(request.cluster, count=min(request.log_lines, LOG_LINES_MAX)),
        )

    async def FindPassages(self, request: pb.FindPassagesRequest, context: Any) -> pb.FindPassagesReply:
        search = _search_from_wire(request)
        found = await asyncio.to_thread(self._host.kernel.find_passages, search)
        return pb.FindPassagesReply(
            fars=[
                pb.FindPassagesReply.Far(address=str(far), on_link=passage.on_link, heard=passage.heard)
                for far, passage in found.items()
            ]
        )

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> AsyncIterator[types_pb2.ApplyEvent]:
        desired = cluster_host_from_wire(request.desired)
        if request.dry_run:
            yield planned(await asyncio.to_thread(self._host.plan, desired))
            yield finished(Cost(generation=desired.generation))
            return
        within = check_within(request.confirm_within)
        async for event in follow_change(
            lambda **callbacks: self._host.apply(desired, confirm_within=within, **callbacks)
        ):
            yield event

    async def Confirm(self, request: pb.ConfirmRequest, context: Any) -> pb.ConfirmReply:
        await asyncio.to_thread(self._host.confirm, request.cluster, request.generation, hold=request.hold)
        return pb.ConfirmReply()

    async def Destroy(self, request: pb.DestroyRequest, context: Any) -> AsyncIterator[types_pb2.ApplyEvent]:
        if not request.cluster:
            raise invalid("destroy: a cluster's name is needed")
        async for event in follow_change(
            lambda **callbacks: self._host.destroy(
                request.cluster, generation=request.generation, dry_run=request.dry_run, **callbacks
            )
        ):
            yield event

    async def Burst(self, request: pb.BurstRequest, context: Any) -> pb.BurstReply:
        questions = [
            Question(
                hostname=one.hostname, address=one.address, mtu=one.mtu, targets=tuple(one.targets), askers=one.askers
            )
            for one in request.askers
        ]
        heard = await asyncio.to_thread(
            self._reach.burst, request.cluster, questions, settle=request.settle, seconds=request.seconds
        )
        return pb.BurstReply(report=heard.report, tunnel_drops=heard.tunnel_drops)

    async def Inspect(self, request: pb.InspectRequest, context: Any) -> pb.InspectReply:
        hostnames = {make_lxc_name(request.cluster, one.hostname): one.hostname for one in request.containers}
        questions = [
            Inspection(name=name, files=tuple(one.files), units=tuple(one.units), ports=tuple(one.ports))
            for name, one in zip(hostnames, request.containers, strict=True)
        ]
        seen = await asyncio.to_thread(self._host.containers.inspect, questions)
        return pb.InspectReply(report=json.dumps({hostnames[name]: found for name, found in seen.items()}))

    async def Examine(self, request: pb.ExamineRequest, context: Any) -> pb.ExamineReply:
        found = await asyncio.to_thread(self._reach.examine, request.cluster)
        return pb.ExamineReply(findings=map(finding_to_wire, found))

    async def Doctor(self, request: pb.DoctorRequest, context: Any) -> pb.DoctorReply:
        if self._doctor is None:
            raise CaasError(Code.UNSUPPORTED, "this agent looks at no host")
        found = await asyncio.to_thread(self._doctor.examine, self._host.others(""))
        return pb.DoctorReply(complaints=[pb.DoctorReply.Complaint(**asdict(one)) for one in found])

    async def Exec(self, inputs: AsyncIterator[pb.ExecInput], context: Any) -> AsyncIterator[pb.ExecOutput]:
        first = await anext(aiter(inputs), None)
        if first is None or first.WhichOneof("input") != "start" or not first.start.argv:
            raise invalid("exec: the first input must start a command")
        try:
            async with contextlib.AsyncExitStack() as stack:
                name = make_lxc_name(first.start.cluster, first.start.hostname)
                process = await self._exec.spawn(name, list(first.start.argv), env=dict(first.start.env))
                # Also when the caller has gone: nothing it started goes on.
                stack.push_async_callback(process.close)
                feeder = asyncio.create_task(_feed(inputs, process))
                stack.callback(feeder.cancel)
                async for output in _tell(process):
                    yield output
                # The one that reads on (see _drain): after a read that was cancelled gRPC takes the next for the end.
                await asyncio.wait({feeder}, timeout=LAST_INPUT)
        except CaasError as error:
            yield pb.ExecOutput(error=error_to_wire(error))
            await _drain(inputs)


def _drift_to_wire(event: Drift) -> pb.Drift:
    return pb.Drift(**asdict(event))


def _search_from_wire(request: pb.FindPassagesRequest) -> Search:
    if len(request.nonce) != NONCE or not 0 < request.seconds <= SEARCH_MAX:
        raise invalid(f"a search needs a nonce of {NONCE} bytes and at most {SEARCH_MAX} seconds")
    try:
        local = IPv4Address(request.local)
        fars = {IPv4Address(far.address): tuple(far.methods) for far in request.fars}
    except ValueError as exc:
        raise invalid(f"search: {exc}") from exc
    if unknown := {method for methods in fars.values() for method in methods} - set(METHODS):
        raise invalid(f"search: unknown method {', '.join(sorted(unknown))}")
    return Search(local=local, nonce=request.nonce, seconds=request.seconds, fars=fars)


async def _drain(inputs: AsyncIterator[pb.ExecInput]) -> None:
    """Let a caller end its side of the call: one that still writes when it ends sees no status and no error.

    To end it is a write, too (grpc issue 36066): the last message is not the end.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_INPUT):
            async for _ in inputs:
                continue


async def _feed(inputs: AsyncIterator[pb.ExecInput], process: Process) -> None:
    """Pass input on until its end, then wait for the caller to end its side (see _drain).

    What a command does not read, as `true` does not, is read here and dropped.
    """
    is_read = True
    try:
        async for item in inputs:
            if item.WhichOneof("input") == "eof":
                process.stdin.close()
                is_read = False
            if is_read:
                try:
                    process.stdin.write(item.stdin)
                    await process.stdin.drain()
                except (BrokenPipeError, ConnectionResetError):
                    is_read = False
    finally:
        process.stdin.close()


async def _tell(process: Process) -> AsyncIterator[pb.ExecOutput]:
    """What the command says, then its status, or why it has none."""
    try:
        async for output in _merge(process):
            yield output
        yield pb.ExecOutput(status=await process.wait())
    except CaasError as error:
        yield pb.ExecOutput(error=error_to_wire(error))


async def _merge(process: Process) -> AsyncIterator[pb.ExecOutput]:
    """What both streams say, as it comes."""
    queue: asyncio.Queue[pb.ExecOutput | None] = asyncio.Queue(maxsize=16)

    async def read(stream: asyncio.StreamReader, wrap: Callable[[bytes], pb.ExecOutput]) -> None:
        try:
            while data := await stream.read(CHUNK):
                await queue.put(wrap(data))
        finally:
            await queue.put(None)

    readers = [
        asyncio.create_task(read(process.stdout, lambda data: pb.ExecOutput(stdout=data))),
        asyncio.create_task(read(process.stderr, lambda data: pb.ExecOutput(stderr=data))),
    ]
    try:
        open_streams = len(readers)
        while open_streams:
            item = await queue.get()
            if item is None:
                open_streams -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()


def _memory_available() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise CaasError(Code.FAILED, "/proc/meminfo has no MemAvailable (proc(5), since Linux 3.14)")
