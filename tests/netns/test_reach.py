"""`caas verify`'s burst between namespaces that stand for containers: all well, and each cause, by causing it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import pytest

from coordinator.reach import Reach, Target, measure
from coordinator.reach.judge import make_matrix
from coordinator.steps import Completed
from proto.errors import CaasError, Code
from tests.support import oracle
from tests.support.netns import Namespaces, run


class NamespaceShell:
    """coordinator.steps.Shell for a namespace of this machine."""

    def __init__(self, netns: str) -> None:
        self.container = netns

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        pipe = asyncio.subprocess.PIPE
        words = ["nsenter", f"--net=/run/netns/{self.container}", *argv]
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = await asyncio.wait_for(process.communicate(stdin), timeout)
        assert process.returncode == 0, err.decode()
        return Completed(status=0, stdout=out, stderr=err)


class Boxes:
    """Boxes on one switch: eth0 with 10.7.0.N/24."""

    def __init__(self, count: int) -> None:
        self.spaces = Namespaces()
        self.switch = self.spaces.add("switch")
        run("ip link add br0 type bridge && ip link set br0 up", netns=self.switch)
        self.names = {number: self.add(number) for number in range(1, count + 1)}

    def add(self, number: int) -> str:
        name = self.spaces.add(str(number))
        run(f"ip link add p{number} type veth peer name eth0 netns {name}", netns=self.switch)
        run(f"ip link set p{number} master br0 up", netns=self.switch)
        run(f"ip link set lo up; ip address add 10.7.0.{number}/24 dev eth0; ip link set eth0 up", netns=name)
        return name

    async def measure(self) -> Reach:
        targets = [
            Target(
                name=f"b{number}",
                address=f"10.7.0.{number}",
                mtu=1500,
                asks={f"b{other}": f"10.7.0.{other}" for other in self.names if other != number},
            )
            for number in self.names
        ]
        return await measure(targets, {f"b{number}": NamespaceShell(name) for number, name in self.names.items()})

    def causes(self, reach: Reach) -> dict[tuple[str, str], str]:
        return {(pair.source, pair.target): pair.cause for pair in reach.pairs if not pair.ok}


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    made = Boxes(3)
    yield made
    made.spaces.close()


async def test_all_is_well_in_both_directions(boxes: Boxes) -> None:
    reach = await boxes.measure()
    assert boxes.causes(reach) == {}
    assert len(reach.pairs) == 6
    assert all(pair.seconds is not None and pair.seconds < 1 for pair in reach.pairs)
    assert make_matrix([pair.to_dict() for pair in reach.pairs]).count(".") == 6


async def test_a_box_that_is_cut_off_is_seen_by_all_and_the_others_are_well(boxes: Boxes) -> None:
    run("ip link set p3 nomaster", netns=boxes.switch)
    causes = boxes.causes(await boxes.measure())
    assert set(causes) == {("b1", "b3"), ("b2", "b3"), ("b3", "b1"), ("b3", "b2")}
    assert all(cause.startswith(("no answer", "cannot be sent")) for cause in causes.values()), causes


async def test_an_answer_that_is_lost_is_told_from_a_question_that_is(boxes: Boxes) -> None:
    rules = "add table ip t; add chain ip t o { type filter hook output priority 0; }"
    run(f"nft '{rules}; add rule ip t o icmp type echo-reply ip daddr 10.7.0.1 drop'", netns=boxes.names[2])
    assert boxes.causes(await boxes.measure()) == {("b1", "b2"): "the answer does not come back"}


async def test_an_mtu_hole(boxes: Boxes) -> None:
    run("ip link set p2 mtu 1400", netns=boxes.switch)
    causes = boxes.causes(await boxes.measure())
    assert causes == dict.fromkeys(causes, "MTU hole: small packets pass, full ones do not")
    assert {("b1", "b2"), ("b3", "b2")} <= set(causes)
    assert ("b1", "b3") not in causes


async def test_a_translated_source(boxes: Boxes) -> None:
    run("ip address add 10.7.0.99/24 dev eth0", netns=boxes.names[1])
    rules = "add table ip t; add chain ip t p { type nat hook postrouting priority 100; }"
    run(f"nft '{rules}; add rule ip t p ip daddr 10.7.0.2 snat to 10.7.0.99'", netns=boxes.names[1])
    assert boxes.causes(await boxes.measure()) == {("b1", "b2"): "wrong source: it arrives as 10.7.0.99"}


async def test_a_duplicate_address(boxes: Boxes) -> None:
    twin = boxes.add(9)
    run("ip address flush dev eth0; ip address add 10.7.0.3/24 dev eth0", netns=twin)
    mac = oracle.links(twin)["eth0"]["address"]
    causes = boxes.causes(await boxes.measure())
    assert causes[("b1", "b3")] == causes[("b2", "b3")] == f"duplicate address: 10.7.0.3 is also {mac}'s"


async def test_a_box_that_cannot_be_asked_is_named(boxes: Boxes) -> None:
    class Dead(NamespaceShell):
        async def run(self, *args: object, **kwargs: object) -> Completed:
            raise CaasError(Code.UNREACHABLE, "host2: no answer")

    targets = [
        Target(name="b1", address="10.7.0.1", mtu=1500, asks={"b2": "10.7.0.2"}),
        Target(name="b2", address="10.7.0.2", mtu=1500, asks={"b1": "10.7.0.1"}),
    ]
    reach = await measure(targets, {"b1": NamespaceShell(boxes.names[1]), "b2": Dead(boxes.names[2])})
    assert boxes.causes(reach) == {("b2", "b1"): "b2 cannot be asked: host2: no answer"}


async def test_many_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    many = Boxes(24)  # more would need more neighbours than the kernel keeps by default
    try:
        began = time.monotonic()
        reach = await many.measure()
        took = time.monotonic() - began
    finally:
        many.spaces.close()
    assert len(reach.pairs) == 24 * 23
    assert many.causes(reach) == {}
    with capsys.disabled():
        print(f"\n552 pairs in {took:.1f} s")
