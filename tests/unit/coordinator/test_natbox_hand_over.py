"""Two NATBoxes as the coordinator sees them: told, handed over, taken over; by real calls, without kernels."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from coordinator.claims import Claims
from coordinator.fleet import NatBoxClient
from coordinator.journal import NATBOX, Journal
from coordinator.natbox_hand_over import Box, Boxes, describe, find_active, hand_over, look
from coordinator.natbox_pair_client import NatBoxPairClient, PairedFleet
from coordinator.natbox_watch import FAILED_LOOKS, Looks, Step, Watch, decide
from coordinator.progress import Progress
from natbox.standing import Role, Standing
from proto import natbox_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import Connection, Flow
from tests.support.gateway import Station, make_gateway, make_table
from tests.support.natbox_pair import ONE, OTHER, PAIR, FakePair

TABLE = make_table(make_gateway(Station(vid=100, mac="02:00:00:00:00:01")))
NEXT = make_table(make_gateway(Station(vid=100, mac="02:00:00:00:00:02")), generation=2)


def udp(number: int) -> Connection:
    inside, outside = Flow(0xF0640A32, 9, number, 53), Flow(9, 0xCB007101, 53, number)
    return Connection(17, inside, outside, status=0x18E, timeout=30, mark=0xCA000064)


class Rig(FakePair):
    """The pair, and what the coordinator has."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.journal = Journal(folder / "journal.db")
        self.progress = Progress(NATBOX, self.journal, lambda _: None)
        self.client = NatBoxPairClient(self, PAIR)  # type: ignore[arg-type]

    async def hand_over(self, to: str = "") -> dict[str, object]:
        return await hand_over(self, PAIR, to, self.progress)  # type: ignore[arg-type]

    async def look(self) -> Boxes:
        return await look(self, PAIR, timeout=1)  # type: ignore[arg-type]

    async def start_again(self, address: str) -> None:
        """Start the daemon; returns when it answers: a channel waits a moment before it tries again."""
        await self.daemons[address].start()
        deadline = time.monotonic() + 10
        while any(box.address == address and box.failure for box in await self.look()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    def watch(self) -> Watch:
        return Watch(self, PAIR, self.progress, Claims())  # type: ignore[arg-type]

    def titles(self) -> list[str]:
        return [entry.title for entry in self.journal.entries(NATBOX)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    await made.start()
    yield made
    await made.stop()
    made.journal.close()


async def test_two_that_nobody_told_are_told_once(rig: Rig) -> None:
    await find_active(rig, PAIR)  # type: ignore[arg-type]
    one, other = (rig.daemons[address].hand_over.standing for address in (ONE, OTHER))
    assert (one, other) == (
        Standing(role=Role.ACTIVE, epoch=1, shared=PAIR.shared),
        Standing(role=Role.STANDBY, epoch=1),
    )
    calls = list(rig.daemons[ONE].machine.calls)
    await find_active(rig, PAIR)  # type: ignore[arg-type]
    assert rig.daemons[ONE].machine.calls == calls


async def test_a_new_one_does_not_begin_while_the_first_may_work(rig: Rig) -> None:
    await rig.daemons[ONE].stop()
    with pytest.raises(CaasError, match=f"no NATBox works: .*{OTHER}: alone") as caught:
        await find_active(rig, PAIR)  # type: ignore[arg-type]
    assert caught.value.code is Code.UNREACHABLE
    watch = rig.watch()
    assert [await watch.look_once() for _ in range(FAILED_LOOKS)] == [Step.NOTHING] * FAILED_LOOKS
    assert rig.daemons[OTHER].hand_over.standing == Standing()
    await rig.start_again(ONE)
    await rig.daemons[OTHER].stop()
    await rig.client.apply(TABLE, lambda _: None)
    assert rig.daemons[ONE].hand_over.standing == Standing(), "it works, as ever"
    await rig.start_again(OTHER)
    assert await watch.look_once() is Step.SETTLE
    assert rig.working == [ONE]


async def test_clusters_have_their_tables_at_both_and_work_at_one(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    assert [daemon.gatekeeper.generations() for daemon in rig.daemons.values()] == [{"c100": 1}] * 2
    assert rig.working == [ONE]
    assert dict((await rig.client.probe()).generations) == {"c100": 1}
    await rig.client.destroy("c100", lambda _: None)
    assert [daemon.gatekeeper.generations() for daemon in rig.daemons.values()] == [{}, {}]


async def test_clusters_see_one_natbox_with_the_shared_address(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    own, (shared,) = IPv4Interface("203.0.113.77/24"), PAIR.shared
    monkeypatch.setattr(rig.daemons[ONE].gatekeeper.door, "uplink_addresses", lambda: [own, shared])
    assert list((await rig.client.probe()).uplink_addresses) == [str(shared), str(own)]
    fleet = PairedFleet(None, PAIR)  # type: ignore[arg-type]
    assert fleet.natbox_names(ONE) == fleet.natbox_names(OTHER) == (ONE, OTHER)
    assert fleet.natbox_names("192.168.2.99") == ("192.168.2.99",)


async def test_a_standby_that_is_away_keeps_nobody_from_working(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    await rig.daemons[OTHER].stop()
    await rig.client.apply(NEXT, lambda _: None)
    assert rig.daemons[ONE].gatekeeper.generations() == {"c100": 2}
    await rig.start_again(OTHER)
    assert rig.daemons[OTHER].gatekeeper.generations() == {"c100": 1}
    assert await rig.watch().look_once() is Step.NOTHING
    assert rig.daemons[OTHER].gatekeeper.generations() == {"c100": 2}, "made good"


async def test_planned_there_and_back(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[ONE].machine.entries = [udp(number) for number in range(5000)]
    done = await rig.hand_over()
    assert (done["from"], done["to"], done["epoch"], done["connections"]) == (ONE, OTHER, 2, 5000)
    assert rig.working == [OTHER]
    assert rig.daemons[OTHER].machine.entries == [udp(number) for number in range(5000)]
    assert (await rig.hand_over(OTHER))["connections"] == 0, "it works already"
    assert (await rig.hand_over(ONE))["connections"] == 5000
    assert rig.working == [ONE]
    there, back = f"{ONE} -> {OTHER}", f"{OTHER} -> {ONE}"
    assert rig.titles() == [f"{OTHER}: the tables of {ONE}", there, f"{ONE}: the tables of {OTHER}", back]


async def test_tables_are_alike_before_it_is_handed_over(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    stale = make_table(make_gateway(Station(vid=7, mac="02:00:00:00:00:07")))
    await rig.one_natbox(OTHER).apply(stale, lambda _: None)
    await rig.one_natbox(ONE).apply(NEXT, lambda _: None)
    await rig.hand_over()
    assert rig.daemons[OTHER].gatekeeper.generations() == {"c100": 2}
    assert sorted(rig.daemons[OTHER].door.vlans) == [100]


async def test_what_was_removed_meanwhile_goes_and_what_is_newer_stays(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    other = make_table(make_gateway(Station(vid=7, mac="02:00:00:00:00:07")))
    await rig.client.apply(other, lambda _: None)
    await rig.one_natbox(ONE).destroy("c7", lambda _: None, generation=5)
    await rig.one_natbox(OTHER).apply(NEXT, lambda _: None)
    await rig.hand_over()
    assert rig.daemons[OTHER].gatekeeper.generations() == {"c100": 2}
    assert rig.daemons[OTHER].gatekeeper.removed() == {"c7": 5}, "at the generation at which it was removed"


async def test_one_that_cannot_carry_packets_is_refused(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[OTHER].machine.connected = False
    with pytest.raises(CaasError, match="link eth1 is down") as caught:
        await rig.hand_over()
    assert caught.value.code is Code.REFUSED
    await rig.daemons[OTHER].stop()
    with pytest.raises(CaasError, match=f"natbox {OTHER}"):
        await rig.hand_over()
    assert rig.working == [ONE]


async def test_both_are_described(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    await rig.daemons[OTHER].stop()
    one, other = await describe(rig, PAIR)  # type: ignore[arg-type]
    assert one == {"address": ONE, "role": "active", "epoch": 1, "unfit": []}
    assert (other["role"], other["epoch"]) == ("", 0)
    assert other["unfit"][0].startswith(f"natbox {OTHER}: ")


async def test_what_is_no_natbox_of_the_pair_is_refused(rig: Rig) -> None:
    with pytest.raises(CaasError, match="the pair is") as caught:
        await rig.hand_over("192.168.2.99")
    assert caught.value.code is Code.INVALID
    with pytest.raises(CaasError, match="no pair") as caught:
        await hand_over(rig, None, "", rig.progress)  # type: ignore[arg-type]
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("call", ["take", "open", "enter"])
async def test_a_hand_over_that_fails_is_taken_back_with_its_connections(rig: Rig, call: str) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[ONE].machine.entries = [udp(1)]
    rig.daemons[OTHER].machine.fail(call)
    with pytest.raises(CaasError, match="simulated"):
        await rig.hand_over()
    assert not rig.daemons[OTHER].machine.armed
    assert rig.working == [ONE]
    assert rig.daemons[ONE].machine.entries == [udp(1)]
    assert (await rig.hand_over())["connections"] == 1


async def test_an_interrupt_does_not_leave_two_that_are_closed(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[ONE].machine.entries = [udp(number) for number in range(3000)]
    under_way = asyncio.create_task(rig.hand_over())
    while "shut" not in rig.daemons[ONE].machine.calls:  # noqa: ASYNC110
        await asyncio.sleep(0)
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    assert rig.working == [OTHER]
    assert len(rig.daemons[OTHER].machine.entries) == 3000


async def test_the_watch_takes_over_after_looks_in_vain(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    watch = rig.watch()
    assert await watch.look_once() is Step.NOTHING
    await rig.daemons[ONE].stop()
    rig.daemons[ONE].machine.connected = False
    steps = [await watch.look_once() for _ in range(FAILED_LOOKS)]
    assert steps == [Step.NOTHING] * (FAILED_LOOKS - 1) + [Step.TAKE_OVER]
    assert rig.daemons[OTHER].hand_over.standing.role is Role.ACTIVE
    assert rig.titles()[-1] == f"{OTHER} takes over: {ONE} does not answer"
    rig.daemons[ONE].machine.reboot()
    rig.daemons[ONE].machine.connected = True
    await rig.start_again(ONE)
    assert await watch.look_once() is Step.NOTHING
    assert rig.working == [OTHER]


async def test_a_dead_daemon_whose_datapath_works_is_left(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    watch = rig.watch()
    await rig.daemons[ONE].stop()
    for _ in range(FAILED_LOOKS - 1):
        await watch.look_once()
    with pytest.raises(CaasError, match="another NATBox works"):
        await watch.look_once()
    assert rig.working == [ONE]
    await rig.start_again(ONE)
    assert await watch.look_once() is Step.NOTHING
    assert rig.working == [ONE]


async def test_a_link_that_is_down_is_handed_over_as_planned(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[ONE].machine.entries = [udp(1)]
    rig.daemons[ONE].machine.connected = False
    watch = rig.watch()
    steps = [await watch.look_once() for _ in range(FAILED_LOOKS)]
    assert steps[-1] is Step.HAND_OVER
    assert rig.working == [OTHER]
    assert rig.daemons[OTHER].machine.entries == [udp(1)]


async def test_two_that_were_off_are_told_again(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    for daemon in rig.daemons.values():
        await daemon.stop()
        daemon.machine.reboot()
    for address in rig.daemons:
        await rig.start_again(address)
    assert rig.working == []
    assert await rig.watch().look_once() is Step.TAKE_OVER
    assert len(rig.working) == 1


async def test_of_two_that_say_they_work_the_later_one_does(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    rig.daemons[OTHER].hand_over.take_over(2, PAIR.shared, [])
    assert [rig.daemons[address].hand_over.standing.role for address in (ONE, OTHER)] == [Role.ACTIVE] * 2
    assert await rig.watch().look_once() is Step.SETTLE
    assert rig.daemons[ONE].hand_over.standing == Standing(role=Role.STANDBY, epoch=3)
    assert rig.working == [OTHER]
    assert (await rig.hand_over())["to"] == ONE, "an epoch higher than both"


async def test_nothing_is_done_while_somebody_hands_over_by_hand(rig: Rig) -> None:
    await rig.client.apply(TABLE, lambda _: None)
    for daemon in rig.daemons.values():
        daemon.hand_over.step_down(9)

    claims = Claims()
    await claims.take(NATBOX, "natbox hand-over")
    watch = Watch(rig, PAIR, rig.progress, claims)  # type: ignore[arg-type]
    with pytest.raises(CaasError, match="under way") as caught:
        await watch.look_once()
    assert caught.value.code is Code.BUSY
    assert rig.working == []


def box(role: str, epoch: int = 1, *, unfit: bool = False, address: str = ONE) -> Box:
    client = NatBoxClient.__new__(NatBoxClient)
    if not role:
        return Box(address=address, client=client, failure=CaasError(Code.UNREACHABLE, "away"))
    unfitness = ["link eth1 is down"] if unfit else []
    return Box(address=address, client=client, standing=pb.NatBoxStandingReply(role=role, epoch=epoch, unfit=unfitness))


@pytest.mark.parametrize(
    ("one", "other", "step"),
    [
        (box("active"), box("standby"), Step.NOTHING),
        (box("active"), box(""), Step.NOTHING),
        (box("active", unfit=True), box(""), Step.NOTHING),
        (box("active", unfit=True), box("standby", unfit=True), Step.NOTHING),
        (box("active", unfit=True), box("standby"), Step.HAND_OVER),
        (box(""), box("standby"), Step.TAKE_OVER),
        (box(""), box("standby", unfit=True), Step.NOTHING),
        (box("standby"), box("standby"), Step.TAKE_OVER),
        (box(""), box(""), Step.NOTHING),
        (box("alone", 0), box(""), Step.NOTHING),
        (box("alone", 0), box("standby", 0), Step.SETTLE),
        (box("alone", 0), box("alone", 0), Step.SETTLE),
        (box("active", 2), box("active", 1), Step.SETTLE),
        (box("alone", 0), box("active", 1), Step.SETTLE),
    ],
)
def test_what_is_decided_in_the_end(one: Box, other: Box, step: Step) -> None:
    other = Box(address=OTHER, client=other.client, standing=other.standing, failure=other.failure)
    for boxes in ((one, other), (other, one)):
        looks, decided = Looks(), Step.NOTHING
        for _ in range(FAILED_LOOKS):
            looks, decided = decide(looks, boxes)
        assert decided is step


def test_a_look_that_succeeds_begins_the_count_again() -> None:
    away, back = (box(""), box("standby", address=OTHER)), (box("active"), box("standby", address=OTHER))
    looks = Looks()
    for boxes in itertools.chain(*[[away] * (FAILED_LOOKS - 1) + [back]] * 3):
        looks, step = decide(looks, boxes)
        assert step is Step.NOTHING
