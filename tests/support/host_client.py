"""`python -m tests.support.host_client ADDRESS:PORT TLSDIR HOST`: one ApplyRequest comes in, the number of kernel
writes goes out."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coordinator.fleet import AgentClient
from proto import agent_pb2
from proto.transport.client import open_channel
from proto.transport.tls import TlsFiles
from proto.wire import cluster_host_from_wire


async def main(address: str, tls: Path, host: str) -> None:
    asked = sys.stdin.buffer.read()
    async with open_channel(address, TlsFiles.load(tls), server_name=host) as channel:
        client = AgentClient(host, channel)
        desired = cluster_host_from_wire(agent_pb2.ApplyRequest.FromString(asked).desired)
        print((await client.apply(desired, lambda event: None)).kernel_writes)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
