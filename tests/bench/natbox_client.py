"""`python -m tests.bench.natbox_client ADDRESS:PORT TLSDIR VID`: for each line, adds a VLAN through NATBox's RPC,
removes it again, and says in JSON how long each took, in milliseconds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from coordinator.fleet import NatBoxClient
from proto import types_pb2
from proto.model import GatewayTable
from proto.transport.client import open_channel
from proto.transport.tls import TlsFiles
from tests.bench.natbox_add import make_vlan


async def serve(address: str, tls: Path, vid: int) -> None:
    gateway = make_vlan(vid)
    generation = 0
    async with open_channel(address, TlsFiles.load(tls), server_name="natbox") as channel:
        client = NatBoxClient(channel)
        await client.probe()
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            generation += 2  # a removal takes the one after
            table = GatewayTable(cluster=gateway.cluster, generation=generation, gateways=(gateway,))
            began = time.perf_counter()
            await client.apply(table, _ignore)
            added = time.perf_counter()
            await client.destroy(table.cluster, _ignore)
            removed = time.perf_counter()
            print(json.dumps({"add": (added - began) * 1e3, "remove": (removed - added) * 1e3}), flush=True)


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
