"""TCP is mTLS: who is let in, by which certificate, and that a server must be the one that was meant."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.lab.certificates import Authority, Bearer
from proto import agent_pb2, agent_pb2_grpc, natbox_pb2, natbox_pb2_grpc
from proto.errors import CaasError, Code
from proto.transport.client import open_channel
from proto.transport.failures import call, look
from proto.transport.server import Server
from proto.transport.tls import COORDINATOR, TlsFiles


def issue(authority: Authority, folder: Path, uri: str, hostname: str) -> TlsFiles:
    address = ipaddress.IPv4Address("127.0.0.1")
    authority.issue(Bearer(uri=uri, hostname=hostname, address=address, uid=os.geteuid()), folder)
    return TlsFiles.load(folder)


class Probing(agent_pb2_grpc.NodeAgentServicer):
    async def Probe(self, request: agent_pb2.ProbeRequest, context: Any) -> agent_pb2.ProbeReply:  # noqa: N802
        if request.HasField("desired"):
            raise ZeroDivisionError("a fault")
        return agent_pb2.ProbeReply(host="host1")


class TakingOver(natbox_pb2_grpc.NatBoxServicer):
    """The one call of ours that streams requests and has one reply."""

    async def TakeOver(self, requests: AsyncIterator[Any], context: Any) -> natbox_pb2.NatBoxTakeOverReply:  # noqa: N802
        return natbox_pb2.NatBoxTakeOverReply(connections=len([each async for each in requests]))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "test")


@pytest.fixture
async def address(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    server = Server(allowed=frozenset({COORDINATOR}))
    agent_pb2_grpc.add_NodeAgentServicer_to_server(Probing(), server.grpc)
    natbox_pb2_grpc.add_NatBoxServicer_to_server(TakingOver(), server.grpc)
    server.listen_tcp(where, issue(authority, tmp_path / "agent", "caas:agent:host1", "host1"))
    await server.start()
    yield where
    await server.stop(grace=0)


async def probe(address: str, tls: TlsFiles, server_name: str = "host1", *, faulty: bool = False) -> str:
    request = agent_pb2.ProbeRequest()
    if faulty:
        request.desired.cluster = "x"
    async with open_channel(address, tls, server_name=server_name) as channel:
        reply = await call(agent_pb2_grpc.NodeAgentStub(channel).Probe(request, timeout=5), server_name)
    return str(reply.host)


async def test_the_coordinator_is_served(address: str, authority: Authority, tmp_path: Path) -> None:
    assert await probe(address, issue(authority, tmp_path / "c", COORDINATOR, "coordinator")) == "host1"


async def test_a_connection_of_its_own_is_another_one(address: str, authority: Authority, tmp_path: Path) -> None:
    tls = issue(authority, tmp_path / "c", COORDINATOR, "coordinator")
    async with (
        _before(address) as (where, seen),
        open_channel(where, tls, server_name="host1") as first,
    ):
        for connections in (2, 3):
            async with open_channel(where, tls, server_name="host1", own_connection=True) as channel:
                for one in (first, channel):
                    await call(agent_pb2_grpc.NodeAgentStub(one).Probe(agent_pb2.ProbeRequest(), timeout=5), "host1")
            assert len(seen) == connections


@contextlib.asynccontextmanager
async def _before(address: str, *, delay: float = 0) -> AsyncIterator[tuple[str, list[int]]]:
    """A proxy for *address* that passes a connection's first bytes on after *delay* seconds: where it listens, and the
    connections that it had."""
    host, _, port = address.partition(":")
    seen: list[int] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        await asyncio.sleep(delay)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    proxy = await asyncio.start_server(pass_on, host, 0)
    try:
        yield f"{host}:{proxy.sockets[0].getsockname()[1]}", seen
    finally:
        proxy.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_slow_peer_is_waited_for(address: str, authority: Authority, tmp_path: Path) -> None:
    """A busy host may take longer for its side of the handshake than a channel waits between two tries."""
    tls = issue(authority, tmp_path / "c", COORDINATOR, "coordinator")
    async with _before(address, delay=1.5) as (where, seen):
        assert await probe(where, tls) == "host1"
    assert len(seen) == 1, "given up, and tried again"


async def test_a_peer_that_serves_again_is_seen_at_once(authority: Authority, tmp_path: Path) -> None:
    """Though the channel has found nobody there many times, and does not try again for a while."""
    tls = issue(authority, tmp_path / "c", COORDINATOR, "coordinator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    async with open_channel(where, tls, server_name="host1") as channel:
        stub = agent_pb2_grpc.NodeAgentStub(channel)
        end = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < end:
            with pytest.raises(CaasError, match="refused"):
                await call(stub.Probe(agent_pb2.ProbeRequest(), timeout=5), "host1")
            await asyncio.sleep(0.01)
        server = Server(allowed=frozenset({COORDINATOR}))
        agent_pb2_grpc.add_NodeAgentServicer_to_server(Probing(), server.grpc)
        server.listen_tcp(where, issue(authority, tmp_path / "agent", "caas:agent:host1", "host1"))
        await server.start()
        reply = await look(lambda: stub.Probe(agent_pb2.ProbeRequest(), timeout=5), "host1")
        assert reply.host == "host1"
        await server.stop(grace=0)


async def test_another_bearer_of_the_same_ca_is_refused(address: str, authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CaasError, match="caas:agent:host2") as caught:
        await probe(address, issue(authority, tmp_path / "a2", "caas:agent:host2", "host2"))
    assert caught.value.code is Code.NOT_OWNED


async def test_a_host_cannot_pose_as_the_coordinator_by_its_dns_name(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(CaasError):
        await probe(address, issue(authority, tmp_path / "a3", "caas:agent:host3", "coordinator"))


async def test_a_call_that_streams_requests_has_the_same_guard(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    requests = [natbox_pb2.NatBoxTakeOverRequest()] * 3
    for uri, name in ((COORDINATOR, "c"), ("caas:agent:host2", "a2")):
        tls = issue(authority, tmp_path / name, uri, name)
        async with open_channel(address, tls, server_name="host1") as channel:
            asked = call(natbox_pb2_grpc.NatBoxStub(channel).TakeOver(iter(requests), timeout=5), "host1")
            if uri == COORDINATOR:
                assert (await asked).connections == 3
                continue
            with pytest.raises(CaasError, match="caas:agent:host2") as caught:
                await asked
            assert caught.value.code is Code.NOT_OWNED


async def test_a_certificate_of_another_ca_is_refused(address: str, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other-ca", "other")
    tls = issue(stranger, tmp_path / "stranger", COORDINATOR, "coordinator")
    with pytest.raises(CaasError) as caught:
        await probe(address, tls)
    assert caught.value.code is Code.UNREACHABLE


async def test_a_server_that_is_not_the_one_meant_is_refused(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(CaasError) as caught:
        await probe(address, issue(authority, tmp_path / "c", COORDINATOR, "coordinator"), "host2")
    assert caught.value.code is Code.UNREACHABLE


async def test_plaintext_gets_nowhere(address: str) -> None:
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    answer = await asyncio.wait_for(reader.read(1024), 10)
    assert not answer or answer[:1] == b"\x15", "neither closed nor a TLS alert"
    writer.close()


async def test_health_may_be_asked_by_any_bearer(address: str, authority: Authority, tmp_path: Path) -> None:
    tls = issue(authority, tmp_path / "a2", "caas:agent:host2", "host2")
    async with open_channel(address, tls, server_name="host1") as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_fault_of_ours_is_told_as_one_without_a_traceback(
    address: str, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(CaasError, match="a fault of ours: ZeroDivisionError") as caught:
        await probe(address, issue(authority, tmp_path / "c", COORDINATOR, "coordinator"), faulty=True)
    assert caught.value.code is Code.FAILED


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaasError, match=r"ca\.pem"):
        TlsFiles.load(tmp_path)
