"""What of the host's own stands in the way between containers and others: named, with commands that really mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.core.doors import Lack
from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Forward, HostState, Masquerade, Route
from tests.support import oracle
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, Site, poll_until, run
from tests.support.tunnelled import add_box, make, make_end

MARK = Mark("demo", "lan")
MASQUERADE = Masquerade(source=IPv4Network("10.9.1.0/24"), exempt=(IPv4Network("10.9.0.0/16"),), mark=MARK)
FORWARD = Forward(
    address=IPv4Address(HOST_ADDRESS), port=1222, to=IPv4Address("10.9.1.2"), to_port=22, mark=Mark("demo", "c1")
)
TUNNELLED = make_end(1)
ALONE = HostState(links=TUNNELLED.links[:1], addresses=TUNNELLED.addresses, masquerades=(MASQUERADE,))
DIRECT = Route(dst=IPv4Network("10.9.2.0/24"), dev="", via=IPv4Address(WIRE_ADDRESS))
DEAF = "packets for containers come in by eth1, and what comes in by it is not forwarded"


@pytest.fixture
def door(site: Site) -> Iterator[NetlinkDoor]:
    switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    run(f"sysctl -qw net.ipv4.ip_forward=0; test -e {switch} && echo 0 > {switch}", netns=site.host, check=False)
    with NetlinkDoor(netns=site.host, ipip="bpf") as opened:
        yield opened


def mend(site: Site, lacks: list[Lack]) -> None:
    for lack in lacks:
        run(lack.mend, netns=site.host)


WANTED: dict[str, tuple[str, HostState]] = {
    "masquerade by the default route": ("ip route add default via 192.168.2.26", ALONE),
    "masquerade by a tunnel's end": ("true", replace(TUNNELLED, masquerades=(MASQUERADE,))),
    "forward": ("true", replace(ALONE, masquerades=(), forwards=(FORWARD,))),
    "no tunnel": ("true", replace(ALONE, masquerades=(), routes=(DIRECT,))),
}


@pytest.mark.parametrize("name", WANTED)
def test_an_uplink_that_does_not_forward_is_named(site: Site, door: NetlinkDoor, name: str) -> None:
    command, desired = WANTED[name]
    run(command, netns=site.host)
    before, writes = oracle.snapshot(site.host), door.writes
    assert door.lacks(desired) == [Lack(what=DEAF, mend="sysctl -w net.ipv4.conf.eth1.forwarding=1")]
    assert (oracle.snapshot(site.host), door.writes) == (before, writes)
    mend(site, list(door.lacks(desired)))
    assert door.lacks(desired) == []


def test_nothing_is_lacking_where_nothing_leaves_or_comes_in(site: Site, door: NetlinkDoor) -> None:
    run("ip link add eth9 type veth peer name other; ip link set eth9 up", netns=site.host)
    run("ip route add default dev eth9 metric 7", netns=site.host)
    assert door.lacks(None) == []
    assert door.lacks(TUNNELLED) == [], "what comes out of tunnels is forwarded by them"
    assert [lack.mend for lack in door.lacks(ALONE)] == ["sysctl -w net.ipv4.conf.eth9.forwarding=1"]
    run("ip route add default via 192.168.2.26 metric 3", netns=site.host)
    assert [lack.mend for lack in door.lacks(ALONE)] == ["sysctl -w net.ipv4.conf.eth1.forwarding=1"]


def test_a_link_with_dots_in_its_name_is_mended_too(site: Site, door: NetlinkDoor) -> None:
    run(
        "ip link add eth1.7 type veth peer name x; ip link set eth1.7 up; ip route add default dev eth1.7",
        netns=site.host,
    )
    mend(site, list(door.lacks(ALONE)))
    assert run("cat /proc/sys/net/ipv4/conf/eth1.7/forwarding", netns=site.host) == "1\n"
    assert door.lacks(ALONE) == []


def test_what_is_named_is_what_keeps_packets_away(site: Site, door: NetlinkDoor) -> None:
    """A box behind the host asks the wire: the uplink does not forward, then a filter drops, then neither does."""
    run(f"ip route add default via {WIRE_ADDRESS}", netns=site.host)
    run(
        "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; };"
        "add rule ip filter FORWARD ct state established,related accept'",
        netns=site.host,
    )
    make(door, replace(TUNNELLED, masquerades=()))
    door.create(MASQUERADE)
    box = add_box(site, 1)
    poll_until(lambda: run("ping -c 1 -W 1 10.9.1.1 >/dev/null && echo yes", netns=box, check=False), deadline=10)
    desired = replace(TUNNELLED, masquerades=(MASQUERADE,))
    asks = f"ping -c 1 -W 0.3 {WIRE_ADDRESS} >/dev/null && echo yes"
    assert not run(asks, netns=box, check=False)
    deaf, filtered = door.lacks(desired)
    assert deaf.what == DEAF
    assert filtered.what == (
        "packets from lxcbr0 to t192.168.2.26, from t192.168.2.26 to lxcbr0, from lxcbr0 to eth1 pass nft chain "
        "ip filter FORWARD, which drops what it does not know"
    )
    run(deaf.mend, netns=site.host)
    assert not run(asks, netns=box, check=False)
    assert door.lacks(desired) == [filtered]
    run(filtered.mend, netns=site.host)
    poll_until(lambda: run(asks, netns=box, check=False), deadline=10)
    assert door.lacks(desired) == []
