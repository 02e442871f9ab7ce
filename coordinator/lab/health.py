"""`python -m coordinator.lab.health DIR`: asks servers whether they serve, as the coordinator would (standard health).

Runs inside the coordinator's namespace, for only there the hosts' addresses mean anything. Reads `NAME ADDRESS
SERVER_NAME` lines, writes NAME as soon as that server answers SERVING, and ends when all have, or when it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto.transport.client import open_channel, open_unix_channel
from proto.transport.tls import TlsFiles

PAUSE = 0.1
CALL_TIMEOUT = 2.0


async def wait_serving(name: str, address: str, server_name: str, tls: TlsFiles) -> None:
    """Ask until the server at *address* (HOST:PORT or unix:PATH) says SERVING; then say its name."""
    while True:
        # A new channel each time: an old one backs off for longer and longer.
        path = address.removeprefix("unix:")
        channel = open_unix_channel(path) if path != address else open_channel(address, tls, server_name=server_name)
        async with channel:
            with contextlib.suppress(grpc.aio.AioRpcError):
                reply = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT
                )
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    print(name, flush=True)
                    return
        await asyncio.sleep(PAUSE)


async def wait_all(lines: list[str], folder: Path) -> None:
    """Ask all servers of *lines* at once."""
    tls = TlsFiles.load(folder)
    servers = [line.split() for line in lines]
    await asyncio.gather(*(wait_serving(name, address, host, tls) for name, address, host in servers))


if __name__ == "__main__":
    asyncio.run(wait_all(sys.stdin.read().splitlines(), Path(sys.argv[1])))
