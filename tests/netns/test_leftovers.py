"""What carries our mark is found when it should be gone, and nothing else is. Made by iproute2, tc and nft."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.leftovers import NetworkLeftovers
from agent.leftovers import Leftovers
from tests.support.netns import Namespaces, run

#: Of a host that runs other things: none of it may ever be told.
OTHERS = (
    "ip link add eth1 type veth peer name far && ip link set eth1 up && ip link set far up",
    "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up",
    "ip link set docker0 alias 'somebody:else'",
    "ip route add 10.99.0.0/16 via 172.17.0.9 proto 203 && ip rule add from 10.99.0.1 table 99 priority 3000",
    "nft add table ip nat && nft add chain ip nat c && nft 'add rule ip nat c counter comment \"docker:caas:demo:x\"'",
)
#: What makes a leftover of cluster demo, and how it is told.
OF_DEMO = {
    "link": (
        "ip link add lxcbr100 type bridge && ip link set lxcbr100 alias caas:demo:cluster",
        "link lxcbr100 (caas:demo:cluster)",
    ),
    "port": ("ip link set far alias caas:demo:container-c1", "link far (caas:demo:container-c1)"),
    "rule of nft": (
        "nft add table ip caas && nft add chain ip caas forward"
        " && nft 'add rule ip caas forward counter comment \"caas:demo:cluster\"'",
        "nft rule ip caas forward (caas:demo:cluster)",
    ),
    "element": (
        "nft add table ip caas && nft 'add set ip caas s { type ipv4_addr; }'"
        " && nft 'add element ip caas s { 10.0.0.1 comment \"caas:demo:c1\" }'",
        "nft set ip caas s (caas:demo:c1)",
    ),
}
#: What clusters share, or has no mark: to be gone with the last of them.
OF_ALL = {
    "link": ("ip link add tun type bridge && ip link set tun alias caas:host:tun", "link tun (caas:host:tun)"),
    "table": ("nft add table ip caas_ipip", "nft table ip caas_ipip (ours by its name)"),
    "route": ("ip route add 10.20.0.0/24 via 172.17.0.9 proto 202", "route 10.20.0.0/24 in table main"),
    "rule": ("ip rule add from 10.20.0.0/24 table 51713 priority 3232", "rule 3232: from 10.20.0.0 lookup 51713"),
}


@pytest.fixture
def host() -> Iterator[str]:
    spaces = Namespaces()
    try:
        name = spaces.add("host")
        for command in OTHERS:
            run(command, netns=name)
        yield name
    finally:
        spaces.close()


def test_what_others_have_is_not_told(host: str) -> None:
    look = NetworkLeftovers(netns=host)
    assert look.find("demo") == []
    assert look.find("") == []
    assert set(look.list_settings()) == {"lo", "eth1", "far", "docker0"}


@pytest.mark.parametrize("kind", OF_DEMO)
def test_what_carries_the_clusters_mark_is_told_and_no_other_clusters(host: str, kind: str) -> None:
    command, told = OF_DEMO[kind]
    run(command, netns=host)
    look = NetworkLeftovers(netns=host)
    assert look.find("demo") == [told]
    assert look.find("dem") == []
    assert told in look.find("")


@pytest.mark.parametrize("kind", OF_ALL)
def test_what_clusters_share_is_told_after_the_last(host: str, kind: str) -> None:
    command, told = OF_ALL[kind]
    run(command, netns=host)
    look = NetworkLeftovers(netns=host)
    assert look.find("demo") == []
    assert look.find("") == [told]


def test_natboxs_own_is_not_the_agents(host: str) -> None:
    run("nft add table ip caas_natbox", netns=host)
    assert NetworkLeftovers(netns=host).find("") == []


def test_a_trunk_is_as_it_was_before_the_first_cluster(host: str, tmp_path: Path) -> None:
    leftovers = Leftovers(tmp_path, netns=host, clock=itertools.count(0.0, 3.0).__next__)
    run("ip link set docker0 promisc on", netns=host)
    leftovers.remember()
    run("ip link set eth1 promisc on && tc qdisc add dev eth1 clsact", netns=host)
    told = [f"link eth1 {word}, which it was not before the first cluster" for word in ("promiscuous", "clsact")]
    found = leftovers.find("demo", is_last=True)
    assert [each.split()[:2] for each in found] == [each.split()[:2] for each in told]
    assert ("is promiscuous" in found[0], "has a clsact qdisc" in found[1]) == (True, True)
    assert leftovers.find("demo", is_last=False) == ()
    run("ip link set eth1 promisc off && tc qdisc del dev eth1 clsact", netns=host)
    assert leftovers.find("demo", is_last=True) == ()
    assert not (tmp_path / "before.json").exists()


def test_what_is_noted_is_a_file_that_another_agent_reads(host: str, tmp_path: Path) -> None:
    Leftovers(tmp_path, netns=host).remember()
    assert json.loads((tmp_path / "before.json").read_text())["docker0"] == []
