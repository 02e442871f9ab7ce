"""Which way each two hosts get, from what their agents heard. The agents are in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.core.doors import Passage, Search
from coordinator.compiling import Pair, Way
from coordinator.config import ClusterFile, load_bytes
from coordinator.journal import Record
from coordinator.pairs import BY_FILE, SECONDS, TUNNELLED, WHYS, describe, find_ways, ways_to_json
from coordinator.survey import survey
from proto import agent_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import Datapath
from tests.support.fakes import FakeKernel
from tests.support.fleet import FakeFleet

FILE = """\
name: demo
hosts:
  h1: {address: 10.8.0.1}
  h2: {address: 10.8.0.2}
  h3: {address: 10.8.0.3}
networks:
  lan: {subnet: 10.9.1.0/24, overlay: OVERLAYTO}
containers:
  c1: {host: h1, network: lan, roles: [controller]}
  c2: {host: h2, network: lan, roles: [compute]}
  c3: {host: h3, network: lan, roles: [compute]}
"""
ENDS = {f"h{i}": IPv4Address(f"10.8.0.{i}") for i in (1, 2, 3)}
NAMES = {end: name for name, end in ENDS.items()}
PAIRS = [("h1", "h2"), ("h1", "h3"), ("h2", "h3")]


def load(overlay: str, to: str = "") -> ClusterFile:
    text = FILE.replace("OVERLAY", overlay).replace("TO", f", tunnel_to: [{to}]" if to else "")
    return load_bytes(text.encode(), file="demo.yaml")


def record(ways: Mapping[Pair, Way]) -> Record:
    text = json.dumps({"ways": ways_to_json(ways)})
    return Record(name="demo", state="up", generation=1, file_name="", file=b"", remembered=text, secrets="")


class World:
    """Who hears what of whom: (listener, sender) -> what is on its link or heard; all else passes."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet
        self.on_link: set[tuple[str, str]] = set()
        self.deaf: set[tuple[str, str, str]] = set()
        for kernel in fleet.kernels.values():
            kernel.able = Datapath(vlan="kernel", ipip="bpf", vxlan="kernel")
            kernel.find_passages = self._answers(kernel)  # type: ignore[method-assign, assignment]

    def _answers(self, kernel: FakeKernel) -> Callable[[Search], Mapping[IPv4Address, Passage]]:
        def answer(search: Search) -> dict[IPv4Address, Passage]:
            kernel.searches.append(search)
            here = NAMES[search.local]
            return {
                far: Passage(
                    on_link=(here, NAMES[far]) in self.on_link,
                    heard=tuple(method for method in methods if (here, NAMES[far], method) not in self.deaf),
                )
                for far, methods in search.fars.items()
            }

        return answer

    def join(self, one: str, other: str) -> None:
        self.on_link |= {(one, other), (other, one)}

    def asked(self, host: str) -> list[dict[str, tuple[str, ...]]]:
        return [
            {NAMES[far]: methods for far, methods in search.fars.items()}
            for search in self.fleet.kernels[host].searches
        ]

    async def find(self, file: ClusterFile, known: Mapping[Pair, Way] | None = None) -> dict[Pair, Way]:
        found = await survey(self.fleet, file, {})  # type: ignore[arg-type]
        return dict((await find_ways(found, file, record(known) if known else None)).ways)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    fleet = FakeFleet(tmp_path)
    await fleet.start(*ENDS)
    yield World(fleet)
    await fleet.stop()


async def test_each_pair_gets_the_best_way_that_both_ends_agree_on(world: World) -> None:
    world.join("h1", "h2")
    world.on_link.add(("h1", "h3"))  # h3 has another mask
    world.deaf.add(("h3", "h2", "ipip"))
    ways = await world.find(load("auto"))
    assert ways == {
        ("h1", "h2"): Way(method="direct", why=WHYS["direct"]),
        ("h1", "h3"): Way(method="ipip", why=WHYS["ipip"]),
        ("h2", "h3"): Way(method="vxlan", why=WHYS["vxlan"]),
    }
    assert world.asked("h1") == [{"h2": ("ipip", "vxlan"), "h3": ("ipip", "vxlan")}]


async def test_all_are_asked_at_once_with_one_nonce_that_is_another_each_time(world: World) -> None:
    for _ in range(2):
        await world.find(load("auto"))
    first, second = ({kernel.searches[i].nonce for kernel in world.fleet.kernels.values()} for i in (0, 1))
    assert len(first) == len(second) == 1
    assert first != second
    search = world.fleet.kernels["h1"].searches[0]
    assert (search.local, search.seconds, len(search.nonce)) == (ENDS["h1"], SECONDS, 16)


async def test_a_host_that_has_no_such_device_is_not_tried_with_it(world: World) -> None:
    world.fleet.kernels["h2"].able = replace(world.fleet.kernels["h2"].able, ipip="")
    ways = await world.find(load("auto"))
    assert [ways[pair].method for pair in PAIRS] == ["vxlan", "ipip", "vxlan"]
    assert world.asked("h2") == [{"h1": ("vxlan",), "h3": ("vxlan",)}]


async def test_pairs_without_any_way_are_all_named(world: World) -> None:
    for method in ("ipip", "vxlan"):
        world.deaf |= {("h1", "h2", method), ("h3", "h2", method)}
    with pytest.raises(CaasError) as caught:
        await world.find(load("auto"))
    assert caught.value.code is Code.UNSUPPORTED
    assert caught.value.message.splitlines() == [
        f"{one} and {other}: not on one link, and neither protocol 4 nor UDP port 4789 passes between them"
        for one, other in (("h1 (10.8.0.1)", "h2 (10.8.0.2)"), ("h2 (10.8.0.2)", "h3 (10.8.0.3)"))
    ]
    assert caught.value.hint


@pytest.mark.parametrize("overlay", ["ipip", "vxlan"])
async def test_what_the_file_says_is_not_tried(world: World, overlay: str) -> None:
    assert await world.find(load(overlay)) == {}
    assert world.asked("h1") == []


async def test_direct_is_only_looked_at(world: World) -> None:
    for pair in PAIRS:
        world.join(*pair)
    assert await world.find(load("direct")) == {}
    assert world.asked("h1") == [{"h2": (), "h3": ()}]
    world.on_link.discard(("h3", "h1"))
    with pytest.raises(CaasError, match=r"h1 .* and h3 .* not on one link, as overlay: direct needs it") as caught:
        await world.find(load("direct"))
    assert caught.value.code is Code.UNSUPPORTED


async def test_what_is_tunnelled_to_is_not_tried(world: World) -> None:
    ways = await world.find(load("auto", "10.8.0.2"))
    assert list(ways) == [("h1", "h3")]
    assert world.asked("h2") == []


async def test_a_known_way_is_kept_while_it_passes_and_chosen_anew_when_not(world: World) -> None:
    known = {pair: Way(method="vxlan", why=f"once {pair}") for pair in PAIRS}
    world.join("h1", "h2")
    assert await world.find(load("auto"), known) == known
    assert world.asked("h1") == [{"h2": ("vxlan",), "h3": ("vxlan",)}]
    world.deaf.add(("h1", "h3", "vxlan"))
    ways = await world.find(load("auto"), known)
    assert ways == known | {("h1", "h3"): Way(method="ipip", why=WHYS["ipip"])}
    assert world.asked("h1")[1:] == [{"h2": ("vxlan",), "h3": ("vxlan",)}, {"h3": ("ipip", "vxlan")}]


async def test_a_direct_way_is_kept_only_on_one_link(world: World) -> None:
    known = {pair: Way(method="direct", why="once") for pair in PAIRS}
    world.join("h1", "h2")
    ways = await world.find(load("auto"), known)
    assert [ways[pair].method for pair in PAIRS] == ["direct", "ipip", "ipip"]


async def test_an_agent_takes_no_other_search(world: World) -> None:
    agent = world.fleet.agent("h1", "")
    far = pb.FindPassagesRequest.Far
    for request in (
        pb.FindPassagesRequest(local="10.8.0.1", nonce=b"x", seconds=1),
        pb.FindPassagesRequest(local="10.8.0.1", nonce=b"x" * 16, seconds=6),
        pb.FindPassagesRequest(local="here", nonce=b"x" * 16, seconds=1),
        pb.FindPassagesRequest(local="10.8.0.1", nonce=b"x" * 16, seconds=1, fars=[far(address="10.8.0.2/32")]),
        pb.FindPassagesRequest(
            local="10.8.0.1", nonce=b"x" * 16, seconds=1, fars=[far(address="10.8.0.2", methods=["gre"])]
        ),
    ):
        with pytest.raises(CaasError) as caught:
            await asyncio.wait_for(agent.find_passages(request), 5)
        assert caught.value.code is Code.INVALID
    assert world.fleet.kernels["h1"].searches == []


def test_what_status_says_of_each_pair() -> None:
    kept = record({("h1", "h2"): Way(method="direct", why="on one link"), ("h1", "h3"): Way(method="vxlan", why="so")})
    assert describe(load("auto", "10.8.0.3"), kept) == [
        {"a": "h1", "b": "h2", "method": "direct", "why": "on one link"},
        {"a": "h1", "b": "h3", "method": "ipip", "why": TUNNELLED},
        {"a": "h2", "b": "h3", "method": "ipip", "why": TUNNELLED},
    ]
    assert {(each["method"], each["why"]) for each in describe(load("vxlan"), None)} == {("vxlan", BY_FILE)}
    assert [each["method"] for each in describe(load("auto"), kept)] == ["direct", "vxlan", "ipip"]
