"""`python -m tests.bench.agent_client ADDRESS:PORT TLSDIR HOST`: for each line, makes 64 containers through the agent's
RPC, removes them again, and says in JSON what took how many seconds."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from coordinator.fleet import AgentClient
from proto import types_pb2
from proto.model import ClusterHost, HostState
from proto.transport.client import open_channel
from proto.transport.tls import TlsFiles
from tests.bench.many import COUNT, make_containers, make_links

CLUSTER = "bench"


class Stages:
    """When the last action of each verb on each kind was done, in seconds after the work began on the agent."""

    def __init__(self) -> None:
        self._actions: list[types_pb2.Action] = []
        self._ends: dict[str, float] = {}

    def __call__(self, event: types_pb2.ApplyEvent) -> None:
        match event.WhichOneof("event"):
            case "planned":
                self._actions = list(event.planned.actions)
            case "finished":
                action = self._actions[event.finished.index]
                stage = f"{action.verb} {action.kind}" if action.kind == "container" else "links"
                self._ends[stage] = max(self._ends.get(stage, 0.0), event.finished.seconds)

    def seconds(self, whole: float) -> dict[str, float]:
        """How long each stage took, one after the other; what comes after the last is "look again, answer"."""
        ends = [0.0, *self._ends.values(), whole]
        lengths = [end - begin for begin, end in itertools.pairwise(ends)]
        return dict(zip([*self._ends, "look again, answer"], lengths, strict=True))


async def serve(address: str, tls: Path, host: str) -> None:
    async with open_channel(address, TlsFiles.load(tls), server_name=host) as channel:
        client = AgentClient(host, channel)
        await client.probe()
        print("ready", flush=True)
        generation = 0
        while await asyncio.to_thread(sys.stdin.readline):
            generation += 2  # a removal takes the one after
            print(json.dumps(await _once(client, host, generation)), flush=True)


async def _once(client: AgentClient, host: str, generation: int) -> dict[str, Any]:
    state = HostState(links=make_links(CLUSTER), containers=make_containers(CLUSTER))
    desired = ClusterHost(cluster=CLUSTER, host=host, generation=generation, state=state)
    stages = Stages()
    began = time.perf_counter()
    await client.apply(desired, stages)
    whole = time.perf_counter() - began
    seen = (await client.observe(CLUSTER)).containers
    running = sum(one.pid > 0 for one in seen)
    began = time.perf_counter()
    await client.destroy(CLUSTER, lambda event: None)
    return {
        "seconds": whole,
        "running": running,
        "wanted": COUNT,
        "stages": stages.seconds(whole),
        "removal": time.perf_counter() - began,
    }


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
