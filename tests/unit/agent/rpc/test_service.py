"""NodeAgent over a real gRPC connection, on doors in memory: decode, call, encode, and errors with their hint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc.aio
import pytest

from agent.core.drift import Drift
from agent.host import Host
from agent.rpc.service import NodeAgent
from agent.saved import SavedStates
from coordinator.fleet import AgentClient, AgentShell
from proto import agent_pb2, agent_pb2_grpc
from proto.errors import CaasError, Code
from proto.model import ClusterHost, HostState
from proto.model.complaint import Complaint
from proto.transport.client import open_unix_channel
from proto.transport.server import Server
from tests.support.clock import FakeClock
from tests.support.fakes import FakeContainers, FakeKernel, FakeLook
from tests.support.things import TRUNK, make_container, make_desired


class LocalProcess:
    """A command of this machine, in place of one in a container."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.process = process

    async def wait(self) -> int:
        return await self.process.wait()

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


class StoppedProcess(LocalProcess):
    """One in a container that does not run: ExecDoor says so by wait()."""

    async def wait(self) -> int:
        raise CaasError(Code.NOT_FOUND, "container demo.stopped does not run")


class LocalExec:
    """ExecDoor that runs commands here."""

    def __init__(self) -> None:
        self.last: LocalProcess | None = None

    async def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str]) -> LocalProcess:
        if name not in {"demo.ubuntu011", "demo.stopped"}:
            raise CaasError(Code.NOT_FOUND, f"container {name} is not there")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(env))
        self.last = StoppedProcess(process) if name == "demo.stopped" else LocalProcess(process)
        return self.last


class FakeDoctor:
    """DoctorDoor that complains of every link that is wanted."""

    def examine(self, desired: HostState) -> Sequence[Complaint]:
        return [Complaint(what=link.name, why="the test says so", mend="none") for link in desired.links]


class Rig:
    """An agent on doors in memory, and a client of it."""

    def __init__(
        self,
        host: Host,
        client: AgentClient,
        kernel: FakeKernel,
        containers: FakeContainers,
        run: LocalExec,
        clock: FakeClock,
    ) -> None:
        self.clock = clock
        self.host, self.client, self.kernel, self.containers, self.run = host, client, kernel, containers, run


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    kernel, containers, run = FakeKernel(foreign=[TRUNK]), FakeContainers(), LocalExec()
    server = Server(allowed=None)
    clock = FakeClock()
    host = Host("host1", kernel, containers, SavedStates(tmp_path / "desired"), clock=clock)
    agent_pb2_grpc.add_NodeAgentServicer_to_server(NodeAgent(host, run, FakeLook(), FakeDoctor()), server.grpc)
    server.listen_unix(str(tmp_path / "agent.sock"))
    await server.start()
    channel = open_unix_channel(str(tmp_path / "agent.sock"))
    yield Rig(host, AgentClient("host1", channel), kernel, containers, run, clock)
    await channel.close()
    await server.stop(grace=1)


async def apply(rig: Rig, desired: ClusterHost) -> tuple[list[str], int]:
    events = []
    result = await rig.client.apply(desired, lambda event: events.append(event.WhichOneof("event")))
    return events, result.kernel_writes + result.container_writes


async def test_the_plan_comes_first_then_each_action_then_the_result(rig: Rig) -> None:
    desired = make_desired(make_container())
    planned = await rig.client.plan(desired)
    assert [(action.verb, action.kind) for action in planned] == [
        ("create", "bridge"),
        ("create", "vlan"),
        ("create", "container"),
        ("start", "container"),
    ]
    assert rig.kernel.writes == 0
    assert await apply(rig, desired) == (["planned", *["finished"] * 4, "result"], 5)
    assert await apply(rig, desired) == (["planned", "result"], 0)


async def test_observe_and_probe_say_what_is_there(rig: Rig) -> None:
    await apply(rig, make_desired(make_container(), generation=7))
    seen = await rig.client.observe("demo")
    assert [(item.container.hostname, item.pid) for item in seen.containers] == [("ubuntu011", 1000)]
    assert dict(seen.generations) == {"demo": 7}
    assert not (await rig.client.observe("other")).containers
    probe = await rig.client.probe(make_desired())
    assert (probe.host, probe.datapath_vlan, dict(probe.generations)) == ("host1", "kernel", {"demo": 7})
    assert probe.memory_available_bytes > 1 << 20
    assert [link.name for link in probe.links] == ["eth1"]


async def test_an_error_arrives_with_code_host_object_and_hint(rig: Rig) -> None:
    del rig.kernel.foreign["eth1"]
    with pytest.raises(CaasError) as caught:
        await apply(rig, make_desired())
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.message.startswith("host1: vlan eth1.100: its parent eth1")
    assert "ip link" in caught.value.hint


async def test_destroy_removes_it(rig: Rig) -> None:
    await apply(rig, make_desired(make_container()))
    with pytest.raises(CaasError, match="host1: demo: its removal at generation 1") as caught:
        await rig.client.destroy("demo", lambda event: None, generation=1)
    assert caught.value.code is Code.STALE
    await rig.client.destroy("demo", lambda event: None, generation=3)
    assert not rig.kernel.things
    assert not rig.containers.containers
    probe = await rig.client.probe()
    assert (dict(probe.generations), dict(probe.removed)) == ({}, {"demo": 3})


async def test_a_change_of_the_network_waits_to_be_confirmed(rig: Rig) -> None:
    desired, client = make_desired(make_container(), generation=7), rig.client
    await client.apply(desired, lambda event: None, confirm_within=600)
    rig.clock.advance(100)
    assert dict((await client.probe()).unconfirmed) == {"demo": 500}
    with pytest.raises(CaasError, match="host1: demo: generation 7 waits to be confirmed, not 6") as caught:
        await client.confirm("demo", 6, hold=False, timeout=5)
    assert caught.value.code is Code.STALE
    await client.confirm("demo", 7, hold=True, timeout=5)
    assert dict((await client.probe()).unconfirmed) == {"demo": 600}
    await client.confirm("demo", 7, hold=False, timeout=5)
    assert not (await client.probe()).unconfirmed
    with pytest.raises(CaasError, match="confirm_within 3601") as caught:
        await client.apply(desired, lambda event: None, confirm_within=3601)
    assert caught.value.code is Code.INVALID


async def test_a_network_that_was_taken_back_is_told(rig: Rig) -> None:
    await rig.client.apply(make_desired(make_container()), lambda event: None, confirm_within=0.05)
    rig.clock.advance(1)
    assert list((await rig.client.probe()).taken_back) == ["demo"]
    assert set(rig.kernel.things) == {("bridge", "lxcbr100")}
    (event,) = (await rig.client.observe("demo")).drift
    assert (event.kind, event.found) == ("network", "generation 1 changed it, and was not confirmed within 0.05 s")


async def test_exec_passes_streams_and_status(rig: Rig) -> None:
    shell = AgentShell(rig.client, "demo", "ubuntu011")
    done = await shell.run(["/bin/sh", "-c", "cat; echo oops >&2; exit 7"], stdin=b"x" * 200_000, check=False)
    assert (done.status, len(done.stdout), done.stderr) == (7, 200_000, b"oops\n")
    with pytest.raises(CaasError, match="ended with 7: oops"):
        await shell.run(["/bin/sh", "-c", "echo oops >&2; exit 7"])


async def test_a_command_that_does_not_read_its_input_is_no_error(rig: Rig) -> None:
    shell = AgentShell(rig.client, "demo", "ubuntu011")
    assert (await shell.run(["/bin/true"], stdin=b"x" * 1_000_000)).status == 0


@pytest.mark.parametrize(("hostname", "last"), [("ubuntu011", "status"), ("nobody", "error"), ("stopped", "error")])
async def test_a_call_does_not_end_before_its_caller_has_ended_its_side(rig: Rig, hostname: str, last: str) -> None:
    """Else the caller's own end may meet the call's, and hide how it ended (grpc issue 36066)."""
    call = rig.client._stub.Exec(timeout=10)
    await call.write(
        agent_pb2.ExecInput(start=agent_pb2.ExecInput.Start(cluster="demo", hostname=hostname, argv=["/bin/true"]))
    )
    await call.write(agent_pb2.ExecInput(eof=True))
    assert (await call.read()).WhichOneof("output") == last
    ended = asyncio.ensure_future(call.code())
    done, _ = await asyncio.wait({ended}, timeout=0.3)
    assert not done
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await ended is grpc.StatusCode.OK


async def test_exec_in_a_container_that_is_not_there(rig: Rig) -> None:
    with pytest.raises(CaasError) as caught:
        await AgentShell(rig.client, "demo", "ghost").run(["true"])
    assert caught.value.code is Code.NOT_FOUND


async def test_a_command_ends_when_its_caller_goes_or_its_time_is_up(rig: Rig) -> None:
    shell = AgentShell(rig.client, "demo", "ubuntu011")
    with pytest.raises(CaasError) as caught:
        await shell.run(["/bin/sleep", "600"], timeout=0.5)
    assert caught.value.code is Code.TIMEOUT
    assert rig.run.last is not None
    assert await asyncio.wait_for(rig.run.last.wait(), 10) == -9


async def test_two_changes_at_once_follow_each_other(rig: Rig) -> None:
    desired = make_desired(make_container())
    results = await asyncio.gather(*(apply(rig, desired) for _ in range(4)))
    assert sorted(writes for _, writes in results) == [0, 0, 0, 5]


async def test_drift_comes_with_what_is_observed(rig: Rig) -> None:
    event = {"time": 7.5, "kind": "route", "name": "r", "found": "missing", "mended": True, "by": "ip", "hint": "h"}
    for cluster in ("demo", "blue", ""):
        rig.host.drift.add(Drift(**event, cluster=cluster))  # type: ignore[arg-type]
    seen = (await rig.client.observe("demo")).drift
    assert [one.cluster for one in seen] == ["demo", ""]
    assert {name: getattr(seen[0], name) for name in event} == event


async def test_the_doctor_looks_for_all_clusters_together(rig: Rig) -> None:
    await apply(rig, make_desired())
    await apply(rig, make_desired(cluster="blue", vid=200))
    complaints = await rig.client.doctor()
    assert {one.what for one in complaints} == {"lxcbr100", "eth1.100", "lxcbr200", "eth1.200"}
    assert (complaints[0].why, complaints[0].mend) == ("the test says so", "none")
