"""What a cluster must keep away from: other clusters' names, subnets and ports, and the host's own."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from agent.core.doors import ForeignLink
from agent.core.taken import Taken, find_taken
from proto.marks import HOST, TUNNEL_TABLE, Mark
from proto.model import Address, Bridge, Forward, HostState, Ipip, Route

THEIRS = Mark("other", "net")
OTHERS = HostState(
    links=(
        Bridge(name="lxcbr0", mtu=1480, mark=THEIRS),
        Ipip(
            name="t192.0.2.2",
            local=IPv4Address("192.0.2.1"),
            remote=IPv4Address("192.0.2.2"),
            mtu=1480,
            mark=Mark(HOST, "t192.0.2.2"),
        ),
    ),
    addresses=(Address(link="lxcbr0", address=IPv4Interface("10.1.1.1/24")),),
    routes=(
        Route(dst=IPv4Network("10.1.2.0/24"), dev="t192.0.2.2"),
        Route(dst=IPv4Network("192.0.2.2/32"), dev="t192.0.2.2", table=TUNNEL_TABLE),
    ),
    forwards=(
        Forward(address=IPv4Address("192.0.2.1"), port=1222, to=IPv4Address("10.1.1.2"), to_port=22, mark=THEIRS),
    ),
)


def test_names_subnets_and_ports_of_others_are_taken_and_shared_tunnels_are_not() -> None:
    foreign = {"eth0": ForeignLink(name="eth0", kind="", mtu=1500, up=True)}
    assert find_taken(foreign, OTHERS, (80,)) == Taken(
        links=("eth0", "lxcbr0"), subnets=(IPv4Network("10.1.1.0/24"), IPv4Network("10.1.2.0/24")), ports=(80, 1222)
    )


def test_nothing_is_taken_on_an_empty_host() -> None:
    assert find_taken({}, HostState()) == Taken(links=(), subnets=(), ports=())
