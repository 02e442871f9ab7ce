"""`python -m tests.bench.verify_client ADDRESS:PORT TLSDIR HOST`: makes 64 containers through the agent's RPC; for each
line looks who reaches whom, and says in JSON what that gave; removes them at the end."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.fleet import AgentClient
from coordinator.reach import look
from proto.model import ClusterHost, HostState
from proto.transport.client import open_channel
from proto.transport.tls import TlsFiles
from tests.bench.many import make_containers, make_links

CLUSTER = "bench"


async def serve(address: str, tls: Path, host: str) -> None:
    # Without a gateway: nobody is there to be one.
    containers = tuple(replace(one, nic=replace(one.nic, gateway=None)) for one in make_containers(CLUSTER))
    state = HostState(links=make_links(CLUSTER), containers=containers)
    desired = ClusterHost(cluster=CLUSTER, host=host, generation=1, state=state)
    async with open_channel(address, TlsFiles.load(tls), server_name=host) as channel:
        client = AgentClient(host, channel)
        await client.apply(desired, lambda event: None)
        try:
            print("ready", flush=True)
            while await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await _once(client, desired)), flush=True)
        finally:
            await client.destroy(CLUSTER, lambda event: None)


async def _once(client: AgentClient, desired: ClusterHost) -> dict[str, Any]:
    began = time.perf_counter()
    pairs = await look(CLUSTER, {desired.host: desired}, {desired.host: client})
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "pairs": len(pairs),
        "failed": [f"{pair.source} to {pair.target}: {pair.cause}" for pair in pairs if not pair.ok],
        "slowest": max((pair.seconds for pair in pairs if pair.seconds), default=0.0),
    }


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
