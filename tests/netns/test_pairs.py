"""`overlay: auto` from the file to the packet: hosts in namespaces try what passes through a router that filters."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.core.doors import Search
from agent.host import Host
from agent.rpc.service import SEARCH_MAX, NodeAgent
from agent.saved import SavedStates
from coordinator import pairs
from coordinator.compiling import Compiled, Pair, Way
from coordinator.config import ClusterFile
from coordinator.journal import Record
from coordinator.pairs import WHYS, find_ways, ways_to_json
from coordinator.survey import HostSurvey, Survey
from proto import agent_pb2 as pb
from proto.errors import CaasError, Code
from tests.netns.conftest import TUNNELS
from tests.support import oracle
from tests.support.fakes import FakeContainers
from tests.support.netns import run
from tests.support.overlays import ADDRESSES, Hosts

NO_IPIP = "ip protocol 4 drop"
NO_VXLAN = "udp dport 4789 drop"
ACROSS: tuple[Pair, ...] = (("h1", "h3"), ("h2", "h3"))


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is further than a veth: of six packets one would pass."""
    monkeypatch.setattr(pairs, "SECONDS", 1.0)


@pytest.fixture(params=TUNNELS)
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    made = Hosts(ipip=str(request.param))
    yield made
    made.close()


def bar(netns: str, *rules: str, hook: str = "forward") -> None:
    """Only *rules* in the namespace."""
    run(
        "nft flush ruleset && nft add table ip theirs && nft add chain ip theirs f "
        f"'{{ type filter hook {hook} priority 0; }}'"
        + "".join(f" && nft add rule ip theirs f {rule}" for rule in rules),
        netns=netns,
    )


def find(hosts: Hosts, file: ClusterFile, folder: Path, *, known: Mapping[Pair, Way] | None = None) -> dict[Pair, Way]:
    """What the coordinator finds, by the agents' own service, each in its host."""

    def survey(name: str) -> HostSurvey:
        door = hosts.doors[name]
        service = NodeAgent(Host(name, door, FakeContainers(), SavedStates(folder / name)), None, None)  # type: ignore[arg-type]
        agent: Any = SimpleNamespace(find_passages=lambda request: service.FindPassages(request, None))
        able = door.datapath()
        probe = pb.ProbeReply(host=name, datapath_ipip=able.ipip, datapath_vxlan=able.vxlan)
        return HostSurvey(agent=agent, probe=probe, seen=pb.ObserveReply())

    asked = Survey(
        cluster="demo",
        addresses=ADDRESSES,
        hosts={name: survey(name) for name in ADDRESSES},
        natbox=None,
        natbox_probe=None,
    )
    remembered = json.dumps({"ways": ways_to_json(known or {})})
    record = Record(name="demo", state="up", generation=1, file_name="", file=b"", remembered=remembered, secrets="")
    return dict(asyncio.run(find_ways(asked, file, record)).ways)


def methods(ways: Mapping[Pair, Way]) -> dict[Pair, str]:
    return {pair: way.method for pair, way in ways.items()}


def bring_up(hosts: Hosts, ways: Mapping[Pair, Way], mtu: int) -> Compiled:
    """Make it so, and try every pair up to the MTU."""
    compiled = hosts.compile("auto", methods(ways))
    hosts.apply(compiled)
    hosts.check_mtu(mtu)
    return compiled


def drops(hosts: Hosts) -> set[int]:
    return {count for door in hosts.doors.values() for count in door.tunnel_drops().values()}


def test_on_one_link_directly_and_behind_a_router_by_ipip(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "SECONDS", SEARCH_MAX)
    for door in hosts.doors.values():
        door.datapath()  # the first look may load a module, which leaves a link of its own
    before = {name: oracle.snapshot(netns) for name, netns in hosts.hosts.items()}
    began = time.monotonic()
    ways = find(hosts, hosts.file("auto"), tmp_path)
    assert time.monotonic() - began < SEARCH_MAX, "nothing was lost: there is nothing to wait for"
    assert methods(ways) == {("h1", "h2"): "direct", **dict.fromkeys(ACROSS, "ipip")}
    assert {way.why for way in ways.values()} == {WHYS["direct"], WHYS["ipip"]}
    assert {name: oracle.snapshot(netns) for name, netns in hosts.hosts.items()} == before
    assert {door.writes for door in hosts.doors.values()} == {0}
    bring_up(hosts, ways, 1480)


@pytest.mark.parametrize("rule", [NO_IPIP, "iifname eth0 ip protocol 4 drop", "oifname eth0 ip protocol 4 reject"])
def test_where_protocol_4_is_dropped_in_any_direction_by_vxlan(hosts: Hosts, tmp_path: Path, rule: str) -> None:
    bar(hosts.router, rule)
    ways = find(hosts, hosts.file("auto"), tmp_path)
    assert methods(ways) == {("h1", "h2"): "direct", **dict.fromkeys(ACROSS, "vxlan")}
    bring_up(hosts, ways, 1450)


def test_where_a_hosts_own_filter_drops_protocol_4_by_vxlan(hosts: Hosts, tmp_path: Path) -> None:
    bar(hosts.hosts["h3"], NO_IPIP, hook="input")
    assert methods(find(hosts, hosts.file("auto"), tmp_path))["h1", "h3"] == "vxlan"


def test_where_nothing_passes_the_pairs_are_named_and_nothing_is_touched(hosts: Hosts, tmp_path: Path) -> None:
    bar(hosts.router, NO_IPIP, NO_VXLAN)
    before = {name: oracle.snapshot(netns) for name, netns in hosts.hosts.items()}
    with pytest.raises(CaasError) as caught:
        find(hosts, hosts.file("auto"), tmp_path)
    assert caught.value.code is Code.UNSUPPORTED
    assert [line.partition(":")[0] for line in caught.value.message.splitlines()] == [
        "h1 (192.168.10.1) and h3 (192.168.11.3)",
        "h2 (192.168.10.2) and h3 (192.168.11.3)",
    ]
    assert {name: oracle.snapshot(netns) for name, netns in hosts.hosts.items()} == before


def test_a_direct_overlay_over_a_router_is_refused_before_anything_is_touched(hosts: Hosts, tmp_path: Path) -> None:
    assert find(hosts, hosts.file("direct", on=("h1", "h2")), tmp_path) == {}
    with pytest.raises(CaasError, match=r"h1 \(192.168.10.1\) and h3 \(192.168.11.3\): not on one link") as caught:
        find(hosts, hosts.file("direct"), tmp_path)
    assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize("method", ["ipip", "vxlan"])
def test_a_way_that_passes_is_kept_while_it_is_in_use(hosts: Hosts, tmp_path: Path, method: str) -> None:
    """The search sees through the tunnels of the cluster itself, which count nothing of it."""
    known = dict.fromkeys([("h1", "h2"), *ACROSS], Way(method=method, why="as then"))
    bring_up(hosts, known, {"ipip": 1480, "vxlan": 1450}[method])
    assert find(hosts, hosts.file("auto"), tmp_path, known=known) == known
    assert methods(find(hosts, hosts.file("auto"), tmp_path))["h1", "h3"] == "ipip", "as another cluster would find"
    assert drops(hosts) == {0}


def test_a_way_that_does_not_pass_any_more_is_chosen_anew(hosts: Hosts, tmp_path: Path) -> None:
    known = dict.fromkeys([("h1", "h2"), *ACROSS], Way(method="ipip", why="as then"))
    bring_up(hosts, known, 1480)
    bar(hosts.router, NO_IPIP)
    ways = find(hosts, hosts.file("auto"), tmp_path, known=known)
    assert methods(ways) == {("h1", "h2"): "ipip", **dict.fromkeys(ACROSS, "vxlan")}
    assert ways["h1", "h2"].why == "as then"
    assert ways["h1", "h3"].why == WHYS["vxlan"]


def test_a_search_from_an_address_that_is_not_the_hosts_is_not_found(hosts: Hosts) -> None:
    far = IPv4Address(ADDRESSES["h2"])
    search = Search(local=IPv4Address("192.0.2.1"), nonce=b"n" * 16, seconds=1, fars={far: ("ipip",)})
    with pytest.raises(CaasError, match=r"listen at 192\.0\.2\.1 for what passes") as caught:
        hosts.doors["h1"].find_passages(search)
    assert caught.value.code is Code.NOT_FOUND
