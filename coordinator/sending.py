"""Sends desired states to the hosts and the table to NATBox: to whoever is behind, all at once."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.fleet import NatBoxClient
from coordinator.journal import NATBOX as HOLDER_NATBOX
from coordinator.preflight import NATBOX
from coordinator.prepared import Prepared
from coordinator.progress import Progress
from coordinator.survey import gather_all
from proto import types_pb2
from proto.model import ClusterHost, GatewayTable


class Sender:
    """The sending of one bring-up. `writes` counts the changing calls that it made the others make."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._prepared = prepared
        self._progress = progress
        self._cluster = prepared.file.name
        self.writes = {"kernel": 0, "containers": 0}

    async def send_all(self) -> None:
        """Everything at once. Who is not in the file any more is asked to remove all, and forgotten when it has."""
        await self._send(self._prepared.host_names)

    async def send_first(self) -> None:
        """Everything but the clones that are to be made."""
        first = self._prepared.first
        names = [name for name in self._prepared.host_names if name not in first]
        await gather_all([self._send(names), *(self._send_first(name, desired) for name, desired in first.items())])

    async def send_clones(self) -> None:
        """What send_first left out."""
        await gather_all([self._send_host(name) for name in self._prepared.first])

    async def _send(self, names: Sequence[str]) -> None:
        prepared = self._prepared
        work = [self._send_host(name) for name in names]
        if prepared.natbox_pending and prepared.survey.natbox and prepared.compiled.natbox:
            work.append(self._send_natbox(prepared.survey.natbox, prepared.compiled.natbox))
        await gather_all(work)
        for name in set(prepared.survey.hosts) - set(prepared.compiled.hosts):
            self._progress.journal.let_go(self._cluster, name)  # it was asked, and has nothing

    async def _send_host(self, name: str) -> None:
        client = self._prepared.survey.hosts[name].agent
        async with self._progress.step(f"apply:{name}", self._title(name)):
            desired = self._prepared.compiled.hosts[name]
            if name in self._prepared.file.hosts:
                self._count(await client.apply(desired, _ignore))
            else:
                self._count(await client.destroy(self._cluster, _ignore, generation=desired.generation))
                self._progress.journal.let_go(self._cluster, name)

    async def _send_first(self, name: str, desired: ClusterHost) -> None:
        client = self._prepared.survey.hosts[name].agent
        title = make_title(name, await client.plan(desired))
        async with self._progress.step(f"apply:{name}:sources", title):
            self._count(await client.apply(desired, _ignore))

    async def _send_natbox(self, client: NatBoxClient, table: GatewayTable) -> None:
        async with self._progress.step(f"apply:{NATBOX}", self._title(NATBOX)):
            if self._prepared.file.natbox is not None:
                self._count(await client.apply(table, _ignore))
            else:
                self._count(await client.destroy(self._cluster, _ignore, generation=table.generation))
                self._progress.journal.let_go(self._cluster, HOLDER_NATBOX)

    def _title(self, name: str) -> str:
        actions = self._prepared.actions.get(name, ())
        return make_title(name, _of_clones(actions, self._prepared) if name in self._prepared.first else actions)

    def _count(self, result: types_pb2.ApplyEvent.Result) -> None:
        self.writes["kernel"] += result.kernel_writes
        self.writes["containers"] += result.container_writes


def make_title(name: str, actions: Sequence[types_pb2.Action]) -> str:
    """What people read while *actions* are done on *name*: "host1: create bridge, create container x2"."""
    counts: dict[str, int] = {}
    for action in actions:
        counts[f"{action.verb} {action.kind}"] = counts.get(f"{action.verb} {action.kind}", 0) + 1
    what = ", ".join(what if count == 1 else f"{what} x{count}" for what, count in counts.items())
    return f"{name}: {what or 'nothing to change'}"


def _of_clones(actions: Sequence[types_pb2.Action], prepared: Prepared) -> list[types_pb2.Action]:
    """Those of *actions* that send_first left to send_clones."""
    names = {f"{prepared.file.name}.{clone}" for clone in prepared.clones}
    return [action for action in actions if action.kind == "container" and action.name in names]


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
