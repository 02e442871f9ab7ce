"""Requests and dumps of links, routes and rules: what is sent is read back as the same thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import IPBatch

from agent.kernel import layer3, links
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import Message, Request, RouteMarshal
from proto.marks import Mark
from proto.model import Address, Route, Rule

ETH1 = SeenLink(
    index=7,
    name="eth1",
    kind="",
    mtu=1500,
    flags=1,
    alias="",
    master=0,
    link=0,
    vid=0,
    vlan_protocol=0,
    mac=b"\2\0\0\0\0\1",
    arp_type=1,
)
BRIDGE = replace(ETH1, index=8, name="lxcbr0", kind="bridge", alias="caas:demo:lan")
VXLAN = replace(ETH1, index=9, name="vxlans", kind="vxlan", alias="caas:host:vxlans")
SEEN = Links([ETH1, BRIDGE, VXLAN])
networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
addresses = st.integers(1, 2**32 - 1).map(IPv4Address)


@pytest.fixture(scope="module")
def batch() -> Iterator[IPBatch]:
    """It compiles messages and sends none."""
    with IPBatch() as opened:
        yield opened


def sent(batch: IPBatch, request: Request) -> Message:
    """The message that *request* would send, as the reading side sees it."""
    try:
        request(batch)
        (message,) = RouteMarshal().parse(bytes(batch.batch))
    finally:
        batch.reset()
    return message


class Dumping:
    """A connection whose every dump is *messages*."""

    def __init__(self, *messages: Message) -> None:
        self._messages = messages

    def dump(self, request: Request, read: Callable[[Message], object]) -> list[object]:
        return [read(message) for message in self._messages]


@given(
    dst=networks,
    via=st.none() | addresses,
    src=st.none() | addresses,
    table=st.integers(1, 2**32 - 1),
    encap=st.none() | addresses,
)
def test_routes(
    batch: IPBatch,
    dst: IPv4Network,
    via: IPv4Address | None,
    src: IPv4Address | None,
    table: int,
    encap: IPv4Address | None,
) -> None:
    route = Route(dst=dst, dev="lxcbr0", via=via, src=src, table=table, encap=encap)
    message = sent(batch, layer3._route_request("add", route, BRIDGE))
    assert message["scope"] == (0 if via else 253)
    assert layer3.list_routes(Dumping(message), SEEN) == [route]  # type: ignore[arg-type]


def test_a_route_over_a_vxlan_has_its_far_end_as_next_hop(batch: IPBatch) -> None:
    end = IPv4Address("192.0.2.2")
    route = Route(dst=IPv4Network("10.0.0.0/8"), dev="vxlans", encap=end)
    message = sent(batch, layer3._route_request("add", route, VXLAN))
    assert (message.get_attr("RTA_GATEWAY"), message["flags"]) == (str(end), 4)
    assert message.get_attr("RTA_ENCAP") is None
    assert layer3.list_routes(Dumping(message), SEEN) == [route]  # type: ignore[arg-type]


def test_a_route_by_a_link_that_is_not_ours_has_no_name_for_it_but_natboxs_has(batch: IPBatch) -> None:
    route = Route(dst=IPv4Network("10.0.0.0/8"), dev="", via=IPv4Address("192.0.2.2"))
    assert sent(batch, layer3._route_request("add", route, None)).get_attr("RTA_OIF") is None
    message = sent(batch, layer3._route_request("add", route, ETH1))
    assert layer3.list_routes(Dumping(message), SEEN) == [route]  # type: ignore[arg-type]
    message["flags"] = 4
    assert layer3.list_routes(Dumping(message), SEEN) == [replace(route, dev="eth1")]  # type: ignore[arg-type]


@given(priority=st.integers(1, 32765), src=st.none() | networks, dst=st.none() | networks, table=st.integers(1, 9999))
def test_rules(batch: IPBatch, priority: int, src: IPv4Network | None, dst: IPv4Network | None, table: int) -> None:
    rule = Rule(priority=priority, src=src, dst=dst, table=table)
    message = sent(batch, layer3._rule_request("add", rule))
    assert layer3.list_rules(Dumping(message)) == [rule]  # type: ignore[arg-type]


@given(address=addresses, length=st.integers(1, 32))
def test_addresses(batch: IPBatch, address: IPv4Address, length: int) -> None:
    thing = Address(link="eth1", address=IPv4Interface((address, length)))
    message = sent(batch, layer3._address_request("add", thing, 7))
    broadcast = str(thing.address.network.broadcast_address) if length < 31 else None
    assert message.get_attr("IFA_BROADCAST") == broadcast
    (seen,) = layer3.list_addresses(Dumping(message), SEEN)  # type: ignore[arg-type]
    assert seen == layer3.SeenAddress(thing, 0xCA)


def test_routes_and_rules_of_another_protocol_are_left_out(batch: IPBatch) -> None:
    route = sent(batch, layer3._route_request("add", Route(dst=IPv4Network("10.0.0.0/8"), dev="eth1"), ETH1))
    assert layer3.list_routes(Dumping(route), SEEN) != []  # type: ignore[arg-type]
    route["proto"] = 3
    assert layer3.list_routes(Dumping(route), SEEN) == []  # type: ignore[arg-type]
    theirs = sent(batch, lambda each: each.rule("add", priority=1, table=5, protocol=3))
    assert theirs.get_attr("FRA_PROTOCOL") == 3
    assert layer3.list_rules(Dumping(theirs)) == []  # type: ignore[arg-type]


def test_a_new_link_has_the_number_that_the_next_request_names(batch: IPBatch) -> None:
    index = links.make_ifindex()
    assert index >= 1 << 20
    new = sent(batch, links.new_vlan(index, "eth1.100", parent=7, vid=100, mtu=1500))
    mark = sent(batch, links.set_link(index, mark=Mark("demo", "x")))
    assert new["index"] == mark["index"] == index
    assert dict(mark["attrs"]) == {"IFLA_IFALIAS": "caas:demo:x"}, "a name would let it mark another's link"
    seen = links._seen_link(new)
    assert (seen.name, seen.kind, seen.vid, seen.vlan_protocol, seen.link) == ("eth1.100", "vlan", 100, 0x8100, 7)


def test_both_ends_of_a_new_veth_have_the_number_that_the_next_requests_name(batch: IPBatch) -> None:
    new = sent(batch, links.new_veth(9, "a", peer_index=11, peer_name="b", mtu=1400, mac=b"\2\0\0\0\0\1"))
    peer = new.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert (new["index"], new.get_attr("IFLA_ADDRESS"), new.get_attr("IFLA_MTU")) == (9, "02:00:00:00:00:01", 1400)
    assert (peer["index"], peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_MTU")) == (11, "b", 1400)


def test_what_is_not_given_is_not_changed(batch: IPBatch) -> None:
    message = sent(batch, links.set_link(9, flags=0x1, flags_off=0x100))
    assert (message["flags"], message["change"], message["attrs"]) == (0x1, 0x101, [])
    assert dict(sent(batch, links.set_link(9, master=0))["attrs"]) == {"IFLA_MASTER": 0}


def test_a_peer_in_another_namespace_is_no_link_of_here(batch: IPBatch) -> None:
    here = sent(batch, lambda route: route.link("add", ifname="v", link=7, mtu=1500))
    away = sent(batch, lambda route: route.link("add", ifname="v", link=7, mtu=1500, link_netnsid=0))
    assert (links._seen_link(here).link, links._seen_link(away).link) == (7, 0)


def test_bridges_of_two_hosts_have_different_unicast_local_macs(batch: IPBatch) -> None:
    macs = {sent(batch, links.new_bridge(9, "b", 1500)).get_attr("IFLA_ADDRESS") for _ in range(50)}
    assert len(macs) == 50
    assert {bytes.fromhex(mac[:2])[0] & 3 for mac in macs} == {2}
