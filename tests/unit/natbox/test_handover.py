"""Two NATBoxes: never both at work, whatever is ordered, fails, dies or is cut off; and connections go along."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kernel.natbox_gate import Gate
from natbox.handover import FORGET_AFTER, GATEWAYS_AGAIN, SHARED_EVERY, HandOver
from natbox.standing import Role, SavedStanding, Standing
from proto.errors import CaasError, Code
from proto.model import Connection, Flow
from tests.support.natbox_machine import FakeMachine, Segment

SHARED = (IPv4Interface("203.0.113.1/24"),)


class Memory(SavedStanding):
    """The file, in memory: it outlives the process."""

    def __init__(self) -> None:
        self.kept = Standing()

    def load(self) -> Standing:
        return self.kept

    def save(self, standing: Standing) -> None:
        self.kept = standing


class Box:
    """A machine with a daemon that can be killed and started."""

    def __init__(self, segment: Segment) -> None:
        self.machine, self.saved, self.opened = FakeMachine(segment), Memory(), 0
        self.start()

    def start(self) -> None:
        self.daemon = HandOver(self.machine, self.saved, on_open=self._note)
        self.daemon.resume()

    def _note(self) -> None:
        self.opened += 1

    @property
    def role(self) -> Role:
        return self.daemon.standing.role


def udp(number: int) -> Connection:
    inside, outside = Flow(0xF0640A32, 9, number, 53), Flow(9, 0xCB007101, 53, number + 1)
    return Connection(17, inside, outside, status=0x18E, timeout=30, mark=0xCA000064)


@pytest.fixture
def pair() -> Iterator[tuple[Box, Box]]:
    segment = Segment()
    one, other = Box(segment), Box(segment)
    other.daemon.step_down(1)
    one.daemon.take_over(1, SHARED, [])
    yield one, other
    assert not (one.machine.works and other.machine.works)


def test_nobody_told_it_anything_and_it_works_alone() -> None:
    box = Box(Segment())
    assert (box.role, box.machine.calls) == (Role.ALONE, [])
    box.daemon.tick()
    assert box.machine.calls == [], "and says nothing"


def test_planned_connections_go_along(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.machine.entries = [udp(1), udp(2)]
    other.machine.entries = [udp(7)]
    carried = one.daemon.step_down(2)
    assert carried == [udp(1), udp(2)]
    one.daemon.tick()
    assert (one.machine.entries, one.machine.addresses, one.machine.kernel_gate) == (
        [],
        [],
        Gate(epoch=2, is_open=False),
    )
    done = other.daemon.take_over(2, SHARED, carried)
    assert (done.connections, done.refused) == (2, 0)
    assert other.machine.entries == carried, "those of an earlier time are nobody's any more"
    assert other.machine.works
    assert (other.saved.kept, one.saved.kept) == (
        Standing(role=Role.ACTIVE, epoch=2, shared=SHARED),
        Standing(role=Role.STANDBY, epoch=2),
    )
    assert other.opened == 1


def test_connections_are_there_before_it_opens_and_closed_before_they_are_listed(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.machine.calls.clear()
    other.machine.calls.clear()
    other.daemon.take_over(2, SHARED, one.daemon.step_down(2))
    assert one.machine.calls == ["shut", "give up"]
    assert other.machine.calls == ["enter", "take", "open", "claim", "announce gateways", "announce shared"]


def test_what_was_handed_out_is_not_ended_where_it_came_back(pair: tuple[Box, Box]) -> None:
    one, _ = pair
    one.machine.entries = [udp(1), udp(2)]
    carried = one.daemon.step_down(2)
    one.daemon.take_over(3, SHARED, carried)
    assert one.machine.entries == carried
    one.daemon.tick()
    one.daemon.step_down(4)
    one.daemon.tick()
    assert one.machine.entries == []


def test_what_begins_at_a_standby_is_forgotten_too(pair: tuple[Box, Box]) -> None:
    one, _ = pair
    one.daemon.step_down(2)
    one.daemon.tick()
    one.machine.entries = [udp(1)]
    for _ in range(max(FORGET_AFTER)):
        one.daemon.tick()
    assert one.machine.entries == []


def test_what_the_kernel_refused_is_told(pair: tuple[Box, Box]) -> None:
    one, other = pair
    other.machine.refuses = 1
    one.daemon.step_down(2)
    done = other.daemon.take_over(2, SHARED, [udp(1), udp(2), udp(3)])
    assert (done.connections, done.refused) == (2, 1)


def test_the_active_one_keeps_its_connections_when_told_again(pair: tuple[Box, Box]) -> None:
    one, _ = pair
    one.machine.entries = [udp(1)]
    one.daemon.take_over(2, SHARED, [])
    assert one.machine.entries == [udp(1)]
    assert one.machine.works


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_old_order_is_refused(pair: tuple[Box, Box], epoch: int) -> None:
    one, other = pair
    for order in (lambda: one.daemon.step_down(epoch), lambda: other.daemon.take_over(epoch, SHARED, [])):
        with pytest.raises(CaasError, match="not higher than 1") as caught:
            order()
        assert caught.value.code is Code.STALE
    assert one.machine.works


def test_one_that_works_is_not_taken_over_from(pair: tuple[Box, Box]) -> None:
    one, other = pair
    with pytest.raises(CaasError, match="another NATBox works") as caught:
        other.daemon.take_over(2, SHARED, [], unless_alive=True)
    assert caught.value.code is Code.CONFLICT
    assert other.role is Role.STANDBY
    one.machine.connected = False
    other.daemon.take_over(2, SHARED, [], unless_alive=True)
    assert other.machine.works
    one.machine.reboot()


def test_one_that_answers_on_one_link_alone_does_not_work(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.machine.addresses = []
    other.daemon.take_over(2, SHARED, [], unless_alive=True)
    assert other.machine.works
    assert one.machine.kernel_gate == Gate(epoch=1, is_open=False, heard=2), "its kernel heard it"


@pytest.mark.parametrize("call", ["take", "open"])
def test_a_take_over_that_fails_leaves_it_closed(pair: tuple[Box, Box], call: str) -> None:
    one, other = pair
    carried = one.daemon.step_down(2)
    other.machine.fail(call)
    with pytest.raises(CaasError, match="simulated"):
        other.daemon.take_over(2, SHARED, carried)
    assert not other.machine.armed
    assert not other.machine.works
    assert (other.role, other.opened) == (Role.STANDBY, 0)
    one.daemon.take_over(3, SHARED, carried)
    assert one.machine.works


def test_what_fails_after_it_works_does_not_take_it_back() -> None:
    def fail() -> None:
        raise CaasError(Code.FAILED, "simulated: mend")

    machine = FakeMachine(Segment())
    daemon = HandOver(machine, Memory(), on_open=fail)
    assert daemon.take_over(1, SHARED, []).connections == 0
    assert machine.works


def test_an_address_that_cannot_be_taken_changes_nothing(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.daemon.step_down(2)
    other.machine.fail("check")
    with pytest.raises(CaasError, match="check"):
        other.daemon.take_over(2, SHARED, [])
    assert other.daemon.standing == Standing(role=Role.STANDBY, epoch=1)


def test_a_restart_goes_on_and_a_reboot_waits(pair: tuple[Box, Box]) -> None:
    one, _ = pair
    one.start()
    assert one.role is Role.ACTIVE
    assert one.machine.works
    one.machine.reboot()
    one.start()
    assert one.daemon.standing.role is Role.STANDBY
    assert not one.machine.works
    assert one.machine.kernel_gate == Gate(epoch=1, is_open=False)


def test_one_that_was_cut_off_is_closed_by_the_other_ones_word(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.machine.connected = False
    other.daemon.take_over(5, SHARED, [], unless_alive=True)
    one.machine.connected = True
    other.daemon.tick()
    assert not one.machine.works, "without its daemon"
    one.daemon.tick()
    assert one.daemon.standing == Standing(role=Role.STANDBY, epoch=5)
    assert one.machine.addresses == []
    one.start()
    assert one.role is Role.STANDBY


def test_it_says_again_what_was_said(pair: tuple[Box, Box]) -> None:
    one, other = pair
    one.machine.calls.clear()
    for _ in range(2 * SHARED_EVERY):
        one.daemon.tick()
        other.daemon.tick()
    assert one.machine.calls.count("claim") == 2 * SHARED_EVERY
    assert one.machine.calls.count("announce gateways") == len(GATEWAYS_AGAIN)
    assert one.machine.calls.count("announce shared") == 3
    assert "claim" not in other.machine.calls


class Story:
    """Orders, deaths and cables in any order; the coordinator orders as it does, and may be wrong about who works."""

    def __init__(self) -> None:
        segment = Segment()
        self.boxes = (Box(segment), Box(segment))
        self.boxes[1].daemon.step_down(1)
        self.boxes[0].daemon.take_over(1, SHARED, [])
        self.epoch = 1

    def step(self, what: str, at: int) -> None:
        box, other = self.boxes[at], self.boxes[1 - at]
        if what == "restart":
            box.start()
        elif what == "reboot":
            box.machine.reboot()
            box.start()
        elif what == "cut":
            box.machine.connected = False
        elif what == "mend":
            box.machine.connected = True
        elif what == "tick":
            box.daemon.tick()
        else:
            self.epoch += 1
            self.order(what, box, other)

    def order(self, what: str, box: Box, other: Box) -> None:
        try:
            if what == "hand over":
                box.daemon.take_over(self.epoch, SHARED, other.daemon.step_down(self.epoch))
            else:
                box.daemon.take_over(self.epoch, SHARED, [], unless_alive=True)
        except CaasError as exc:
            if exc.code is not Code.CONFLICT:
                raise


steps = st.tuples(
    st.sampled_from(("restart", "reboot", "cut", "mend", "tick", "hand over", "take over")), st.integers(0, 1)
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=25))
def test_whatever_happens_two_that_hear_each_other_do_not_both_work_for_long(some: list[tuple[str, int]]) -> None:
    story = Story()
    for what, at in some:
        story.step(what, at)
    for box in story.boxes:
        box.machine.connected = True
    for box in story.boxes:
        box.daemon.tick()
    assert sum(box.machine.works for box in story.boxes) <= 1
    assert sum(box.role is Role.ACTIVE for box in story.boxes) <= 2
    for box in story.boxes:
        box.daemon.tick()
    assert sum(box.role is Role.ACTIVE for box in story.boxes) <= 1


def test_the_file_says_what_was_saved(tmp_path: Path) -> None:
    saved = SavedStanding(tmp_path / "state" / "role.json")
    assert saved.load() == Standing()
    standing = Standing(role=Role.ACTIVE, epoch=7, shared=SHARED)
    saved.save(standing)
    assert saved.load() == standing
    (tmp_path / "state" / "role.json").write_text('{"role": "king"}')
    with pytest.raises(CaasError, match="not a NATBox's standing"):
        saved.load()
