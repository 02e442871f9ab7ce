"""After a change: is each host that it touched still reached? Else none of them is told that the change stays.

Each agent takes the network part of a change back by itself unless it is confirmed in time, over a connection that did
not exist before the change. Who is done early is held until the last one is done (docs/adr/0010-confirm.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from coordinator.fleet import AgentClient
from coordinator.prepared import Prepared
from coordinator.survey import combine, is_away
from proto import types_pb2
from proto.errors import CaasError, Code
from proto.model import ClusterHost, Container

#: Seconds that a host waits to hear that its change stays.
WITHIN = 30.0
#: Seconds between tries to reach a host.
PAUSE = 0.2


@contextlib.asynccontextmanager
async def confirming(prepared: Prepared) -> AsyncIterator[Changes]:
    """Changes that are made in the block, and confirmed at its end; also those that an earlier bring-up of the cluster
    did not come to confirm.

    A host whose change fails and that says so has taken its part back, and the others' stays: that failure is raised
    when they are confirmed. UNVERIFIED where a host is not reached any more after its change: none is confirmed.
    """
    changes = Changes(prepared.file.name, WITHIN)
    for name, host in prepared.survey.present.items():
        if name in prepared.file.hosts and prepared.file.name in host.probe.unconfirmed:
            # Nobody knows how long it has waited.
            changes.add(host.agent, host.probe.generations.get(prepared.file.name, 0), hold_after=0)
    failures: list[BaseException] = []
    try:
        try:
            yield changes
        except CaasError as exc:
            failures.append(exc)
        failures += await changes.confirm()
    finally:
        await changes.close()
    combine(failures)


class Changes:
    """The changes of one bring-up, by host. Each waits for *within* seconds to be confirmed."""

    def __init__(self, cluster: str, within: float) -> None:
        self._cluster, self._within = cluster, within
        self._made: dict[str, tuple[AgentClient, int]] = {}
        self._lost: list[str] = []
        self._holding: list[asyncio.Task[None]] = []

    async def apply(self, agent: AgentClient, desired: ClusterHost) -> types_pb2.ApplyEvent.Result:
        """Make the host as desired. UNVERIFIED where it is not heard of any more once it has begun with its network."""
        begun = False

        def note(event: types_pb2.ApplyEvent) -> None:
            nonlocal begun
            begun = begun or any(action.kind != Container.kind for action in event.planned.actions)

        try:
            result = await agent.apply(desired, note, confirm_within=self._within)
        except CaasError as exc:
            if not is_away(exc):
                raise
            if not begun:
                self._made.pop(agent.host, None)  # what may have waited there before is taken back, and no other's
                raise
            self._lost.append(agent.host)
            raise CaasError(Code.UNVERIFIED, f"{exc.message}; it was changing its network", hint=exc.hint) from exc
        self.add(agent, desired.generation)
        return result

    def add(self, agent: AgentClient, generation: int, *, hold_after: float | None = None) -> None:
        """The host of *agent* has the change to *generation*, and is held: first after so many seconds, a third of what
        it waits where nothing is said."""
        self._made[agent.host] = (agent, generation)
        pause = self._within / 3 if hold_after is None else hold_after
        self._holding.append(asyncio.create_task(self._hold(agent, generation, pause)))

    async def confirm(self) -> list[CaasError]:
        """Confirm the change on all hosts where every one of them is reached, else on none; why not."""
        if self._lost:
            return [self._unconfirmed(f"{', '.join(sorted(self._lost))} did not answer")]
        async with contextlib.AsyncExitStack() as stack:
            anew = {
                host: (await stack.enter_async_context(agent.anew()), generation)
                for host, (agent, generation) in self._made.items()
            }
            if silent := await self._ask_all(anew, hold=True):
                return [self._unconfirmed("; ".join(error.message for error in silent))]
            return [self._explain(error) for error in await self._ask_all(anew, hold=False)]

    async def close(self) -> None:
        """Hold nobody any more."""
        for task in self._holding:
            task.cancel()
        await asyncio.gather(*self._holding, return_exceptions=True)

    async def _hold(self, agent: AgentClient, generation: int, pause: float) -> None:
        """What fails now will fail at the end, too, or be well again."""
        while True:
            await asyncio.sleep(pause)
            pause = self._within / 3
            with contextlib.suppress(CaasError):
                async with agent.anew() as fresh:
                    await fresh.confirm(self._cluster, generation, hold=True, timeout=self._within / 3)

    async def _ask_all(self, anew: Mapping[str, tuple[AgentClient, int]], *, hold: bool) -> list[CaasError]:
        async def ask(agent: AgentClient, generation: int) -> None:
            await insist(
                lambda left: agent.confirm(self._cluster, generation, hold=hold, timeout=left), seconds=self._within / 2
            )

        asked = (ask(agent, generation) for agent, generation in anew.values())
        return _errors(await asyncio.gather(*asked, return_exceptions=True))

    def _unconfirmed(self, why: str) -> CaasError:
        hosts = ", ".join(sorted({*self._made, *self._lost}))
        return CaasError(
            Code.UNVERIFIED,
            f"{self._cluster}: the change is not confirmed, since not every host is reached after it: {why}. Within "
            f"{self._within:g} s each host that was changed makes its network as before by itself ({hosts}); "
            "containers stay",
            hint="see what of the change cuts that host off, or what else does; "
            f"`caas status {self._cluster}` says who took it back; then the same command again",
        )

    def _explain(self, error: CaasError) -> CaasError:
        """It answered a moment ago, and the others were told: it alone may go back."""
        return CaasError(
            Code.UNVERIFIED,
            f"{error.message}; the change of {self._cluster} is confirmed elsewhere, and this host may make its "
            f"network as before within {self._within:g} s",
            hint="the same command again",
        )


async def insist(call: Callable[[float], Awaitable[None]], *, seconds: float) -> None:
    """Make *call*, with the seconds that are left, until it is answered; its last failure where it is not."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        try:
            await call(max(end - loop.time(), PAUSE))
            return
        except CaasError as exc:
            if not exc.code.retryable or loop.time() + PAUSE >= end:
                raise
        await asyncio.sleep(PAUSE)


def _errors(results: Sequence[BaseException | None]) -> list[CaasError]:
    """Those of *results* that are told; anything else is raised."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, CaasError):
            raise result
    return [result for result in results if isinstance(result, CaasError)]
