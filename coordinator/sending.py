"""Sends desired states to the hosts and the table to NATBox: to whoever is behind, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from coordinator.confirming import Changes, confirming
from coordinator.fleet import NatBoxClient
from coordinator.journal import NATBOX as HOLDER_NATBOX
from coordinator.preflight import NATBOX
from coordinator.prepared import Prepared
from coordinator.progress import Progress, PutOff
from coordinator.survey import combine, gather_all
from proto import types_pb2
from proto.errors import CaasError, Code
from proto.model import ClusterHost, GatewayTable


class Sender:
    """The sending of one bring-up. `writes` counts the changing calls that it made the others make.

    `lost` has who went away before its answer came, as in journal.holders, and why. A CONFLICT is raised when all the
    others have ended: what another cluster took meanwhile can be avoided.
    """

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self._prepared = prepared
        self._progress = progress
        self._journal = progress.journal
        self._cluster = prepared.file.name
        self._conflicts: list[CaasError] = []
        self._changes: Changes
        self.writes = {"kernel": 0, "containers": 0}
        self.lost: dict[str, str] = {}

    async def send_all(self) -> None:
        """Everything at once. Who is not in the file any more is asked to remove all, and forgotten when it has."""
        async with confirming(self._prepared) as self._changes:
            await self._send(self._prepared.host_names)
        combine(self._conflicts)

    async def send_first(self) -> None:
        """Everything but the clones that are to be made."""
        first = self._prepared.first
        names = [name for name in self._prepared.host_names if name not in first]
        async with confirming(self._prepared) as self._changes:
            await gather_all([self._send(names), *(self._send_first(name, desired) for name, desired in first.items())])
        combine(self._conflicts)

    async def send_clones(self) -> None:
        """What send_first left out."""
        async with confirming(self._prepared) as self._changes:
            await gather_all([self._send_host(name) for name in self._prepared.first if name not in self.lost])
        combine(self._conflicts)

    async def _send(self, names: Sequence[str]) -> None:
        prepared = self._prepared
        work = [self._send_host(name) for name in names]
        if prepared.natbox_pending and prepared.survey.natbox and prepared.compiled.natbox:
            work.append(self._send_natbox(prepared.survey.natbox, prepared.compiled.natbox))
        await gather_all(work)
        for name in set(prepared.survey.hosts) - set(prepared.compiled.hosts):
            self._journal.let_go(self._cluster, name)  # it was asked, and has nothing

    async def _send_host(self, name: str) -> None:
        client = self._prepared.survey.hosts[name].agent
        async with self._progress.step(f"apply:{name}", self._title(name)):
            desired = self._prepared.compiled.hosts[name]
            with self._put_off(name):
                if name in self._prepared.file.hosts:
                    self._count(await self._changes.apply(client, desired))
                    self._journal.reached(self._cluster, name, desired.generation)
                else:
                    self._count(await client.destroy(self._cluster, _ignore, generation=desired.generation))
                    self._journal.let_go(self._cluster, name)

    async def _send_first(self, name: str, desired: ClusterHost) -> None:
        client = self._prepared.survey.hosts[name].agent
        title = make_title(name, await client.plan(desired))
        async with self._progress.step(f"apply:{name}:sources", title):
            with self._put_off(name):
                self._count(await self._changes.apply(client, desired))

    async def _send_natbox(self, client: NatBoxClient, table: GatewayTable) -> None:
        async with self._progress.step(f"apply:{NATBOX}", self._title(NATBOX)):
            with self._put_off(HOLDER_NATBOX):
                if self._prepared.file.natbox is not None:
                    self._count(await client.apply(table, _ignore))
                    self._journal.reached(self._cluster, HOLDER_NATBOX, table.generation)
                else:
                    self._count(await client.destroy(self._cluster, _ignore, generation=table.generation))
                    self._journal.let_go(self._cluster, HOLDER_NATBOX)

    @contextmanager
    def _put_off(self, holder: str) -> Iterator[None]:
        """What is no failure for now: *holder* is gone, or what it was to have is another cluster's."""
        try:
            yield
        except CaasError as exc:
            match exc.code:
                case Code.UNREACHABLE:
                    self.lost[holder] = exc.message
                case Code.CONFLICT:
                    self._conflicts.append(exc)
                case _:
                    raise
            raise PutOff(exc.message) from exc

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
