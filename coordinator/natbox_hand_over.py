"""One NATBox of the site's pair after the other (docs/adr/0012): who works, tables alike, and the change itself.

Nothing is remembered here: the two are asked. Whoever gives an order gives it a higher epoch than both know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from coordinator.config.natbox_pair import NatBoxPair
from coordinator.fleet import Fleet, NatBoxClient
from coordinator.progress import Progress
from proto import natbox_pb2, types_pb2
from proto.errors import CaasError, Code, invalid
from proto.wire import gateway_table_from_wire

log = logging.getLogger(__name__)
#: What standings are called on the wire (natbox.standing.Role).
ALONE, ACTIVE, STANDBY = "alone", "active", "standby"
LOOK = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One of the two, as it answered just now. Without a standing it did not; `failure` says how."""

    address: str
    client: NatBoxClient
    standing: natbox_pb2.NatBoxStandingReply | None = None
    failure: CaasError | None = None

    @property
    def role(self) -> str:
        """ "" where it did not answer."""
        return self.standing.role if self.standing else ""

    @property
    def epoch(self) -> int:
        return self.standing.epoch if self.standing else 0

    @property
    def unfit(self) -> Sequence[str]:
        """Why it cannot carry packets."""
        return [self.failure.message] if self.failure else list(self.standing.unfit if self.standing else ())


Boxes = tuple[Box, Box]
T = TypeVar("T")


async def look(fleet: Fleet, pair: NatBoxPair, *, timeout: float = LOOK) -> Boxes:
    """Ask both at once; who does not answer within *timeout* seconds is in it, too."""

    async def ask(address: str) -> Box:
        client = fleet.one_natbox(address)
        try:
            return Box(address=address, client=client, standing=await client.standing(timeout=timeout))
        except CaasError as exc:
            return Box(address=address, client=client, failure=exc)

    one, other = await asyncio.gather(*(ask(str(address)) for address in pair.addresses))
    return one, other


def find_working(boxes: Boxes) -> Box | None:
    """The active one (of two that say so, that of the higher epoch), else the first where nobody told it anything.

    Never the second where nobody did: it is the new one, and the first may work, though it does not answer.
    """
    active = [box for box in boxes if box.role == ACTIVE]
    if active:
        return max(active, key=lambda box: box.epoch)
    return boxes[0] if boxes[0].role == ALONE else None


def needs_telling(boxes: Boxes) -> bool:
    """Whether both answer, and were never told or told the same: only then it is safe to say which works."""
    roles = [box.role for box in boxes]
    return all(roles) and (ALONE in roles or roles == [ACTIVE, ACTIVE])


def other_of(boxes: Boxes, box: Box) -> Box:
    """The one that *box* is not."""
    return boxes[1] if boxes[0].address == box.address else boxes[0]


def next_epoch(boxes: Boxes) -> int:
    """Higher than what either knows."""
    return max(box.epoch for box in boxes) + 1


async def settle(pair: NatBoxPair, boxes: Boxes) -> None:
    """Tell two that need telling which works: who does, else the first that can. The other is told first."""
    working = find_working(boxes) or next((box for box in boxes if not box.unfit), None)
    if working is None:
        raise _nobody(boxes)
    epoch, other = next_epoch(boxes), other_of(boxes, working)
    if other.role != STANDBY:
        await other.client.step_down(epoch)
    if working.role != ACTIVE:
        await working.client.take_over(epoch, pair.shared)


async def find_active(fleet: Fleet, pair: NatBoxPair) -> Boxes:
    """The one that works, then the other; they are told where nobody has. UNREACHABLE where none works."""
    boxes = await look(fleet, pair)
    if needs_telling(boxes):
        try:
            await settle(pair, boxes)
        except CaasError as exc:
            if exc.code is not Code.STALE:  # the watch has told them meanwhile
                raise
        boxes = await look(fleet, pair)
    working = find_working(boxes)
    if working is None:
        raise _nobody(boxes)
    return working, other_of(boxes, working)


async def describe(fleet: Fleet, pair: NatBoxPair) -> list[dict[str, Any]]:
    """Both, as documents have them."""
    return [
        {"address": box.address, "role": box.role, "epoch": box.epoch, "unfit": list(box.unfit)}
        for box in await look(fleet, pair)
    ]


async def make_alike(working: Box, other: Box) -> int:
    """Give *other* the tables that *working* has, and no more; how many clusters' tables were sent.

    One that *other* has of a higher generation is left: the one that works missed it, and the next `up` brings it.
    """
    tables = {table.cluster: table for table in (await working.client.observe("")).tables}
    there = {table.cluster: table for table in (await other.client.observe("")).tables}
    known = dict(other.standing.generations) if other.standing else {}
    gone = sorted((there.keys() | known.keys()) - tables.keys())
    missing = [
        table
        for cluster, table in sorted(tables.items())
        if there.get(cluster) != table and known.get(cluster, 0) <= table.generation
    ]
    # Looked for only where it is needed: the generations of removals come with a long look.
    removed = dict((await working.client.probe()).removed) if gone else {}
    for cluster in gone:
        with _unless_newer(other, cluster):
            await other.client.destroy(cluster, _ignore, generation=removed.get(cluster, 0))
    for table in missing:
        with _unless_newer(other, table.cluster):
            await other.client.apply(gateway_table_from_wire(table), _ignore)
    return len(gone) + len(missing)


@contextlib.contextmanager
def _unless_newer(other: Box, cluster: str) -> Iterator[None]:
    """What is newer there is left."""
    try:
        yield
    except CaasError as exc:
        if exc.code is not Code.STALE:
            raise
        log.info("NATBox %s: %s: left as it is: %s", other.address, cluster, exc)


async def hand_over(fleet: Fleet, pair: NatBoxPair | None, to: str, progress: Progress) -> dict[str, Any]:
    """Have the NATBox at *to* ("" is the one that does not work now) work, with every connection; the summary."""
    if pair is None:
        raise CaasError(
            Code.NOT_FOUND,
            "there is no pair of NATBoxes here",
            hint="name two in the coordinator's configuration: `natbox: {addresses: [A, B], shared: [ADDRESS/24]}`",
        )
    if to and not pair.has(to):
        raise invalid(f"NATBox {to}: the pair is {pair.addresses[0]} and {pair.addresses[1]}")
    working, other = await find_active(fleet, pair)
    if to == working.address:
        progress.note(f"NATBox {to} works already: nothing to do")
        return {"from": to, "to": to, "epoch": working.epoch, "connections": 0, "refused": 0, "seconds": 0.0}
    if other.unfit:
        raise CaasError(
            Code.REFUSED,
            f"NATBox {other.address} cannot take over: " + "; ".join(other.unfit),
            hint="mend it first: packets go on through the other",
        )
    async with progress.step("natbox:tables", f"{other.address}: the tables of {working.address}"):
        await make_alike(working, other)
    async with progress.step("natbox:hand-over", f"{working.address} -> {other.address}"):
        return await _finish(_change(pair, working, other))


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """*work* to its end, also where the caller is interrupted: in between, both are closed."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _change(pair: NatBoxPair, working: Box, other: Box) -> dict[str, Any]:
    epoch = next_epoch((working, other))
    began = time.monotonic()
    carried: list[natbox_pb2.NatBoxConnections] = []
    try:
        carried = await working.client.step_down(epoch)
        done = await other.client.take_over(epoch, pair.shared, carried)
    except CaasError:
        await _take_back(pair, working, epoch + 1, carried)
        raise
    return {
        "from": working.address,
        "to": other.address,
        "epoch": epoch,
        "connections": done.connections,
        "refused": done.refused,
        "seconds": round(time.monotonic() - began, 3),
    }


async def _take_back(
    pair: NatBoxPair, working: Box, epoch: int, carried: Sequence[natbox_pb2.NatBoxConnections]
) -> None:
    """The other one failed: it is closed, and the first works again. Where that fails, too, the watch goes on."""
    try:
        await working.client.take_over(epoch, pair.shared, carried, unless_alive=True)
    except CaasError as exc:
        if exc.code not in (Code.CONFLICT, Code.STALE):
            raise CaasError(exc.code, f"not handed over, and not taken back: {exc}", hint=exc.hint) from exc


def _nobody(boxes: Boxes) -> CaasError:
    told = "; ".join(f"{box.address}: {', '.join(box.unfit) or box.role}" for box in boxes)
    return CaasError(Code.UNREACHABLE, f"no NATBox works: {told}", hint="see their logs; is caas-natbox running?")


def _ignore(_: types_pb2.ApplyEvent) -> None:
    return None
