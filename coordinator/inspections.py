"""What the containers of one host show: all that is asked about at once is one call to its agent."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from coordinator.nova.batches import Batches
from proto import agent_pb2
from proto.errors import CaasError, Code

Wanted = Mapping[str, Sequence[str]]
#: Containers in one call: as many as the largest clusters have on a host.
MOST = 256
KINDS = ("files", "units", "ports")


class Inspections:
    """Looks into the containers of one host; *call* is its agent's Inspect."""

    def __init__(self, call: Callable[[agent_pb2.InspectRequest], Awaitable[agent_pb2.InspectReply]]) -> None:
        self._call = call
        self._batches = Batches(self._ask, most=MOST)

    async def look(self, cluster: str, container: str, wanted: Wanted) -> Mapping[str, Any]:
        """What *container* shows of *wanted* (names by KINDS). Raises what the agent says of that container."""
        item = json.dumps([cluster, container, {kind: list(wanted[kind]) for kind in KINDS}])
        seen: dict[str, Any] = await self._batches.ask(item)
        if error := seen.get("error"):
            raise CaasError(Code(error["code"]), error["message"], hint=error["hint"])
        return seen

    async def _ask(self, items: tuple[str, ...]) -> Mapping[str, Any]:
        asked = {item: json.loads(item) for item in items}
        reports = {}
        for cluster in {cluster for cluster, *_ in asked.values()}:
            of_cluster = [(container, wanted) for other, container, wanted in asked.values() if other == cluster]
            reply = await self._call(agent_pb2.InspectRequest(cluster=cluster, containers=_merge(of_cluster)))
            reports[cluster] = json.loads(reply.report)
        return {item: reports[cluster][container] for item, (cluster, container, _) in asked.items()}


def _merge(asked: Sequence[tuple[str, Wanted]]) -> list[agent_pb2.InspectRequest.One]:
    """One question for each container: the answer may have more in it than who asks wants."""
    merged: dict[str, dict[str, dict[str, None]]] = {}
    for container, wanted in asked:
        kinds = merged.setdefault(container, {kind: {} for kind in KINDS})
        for kind in KINDS:
            kinds[kind].update(dict.fromkeys(wanted[kind]))
    return [
        agent_pb2.InspectRequest.One(
            hostname=container, files=kinds["files"], units=kinds["units"], ports=kinds["ports"]
        )
        for container, kinds in merged.items()
    ]
