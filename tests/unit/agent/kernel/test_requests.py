"""Requests and dumps of links, routes, rules and translation: what is encoded is decoded to the same thing."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import layer3, links, masquerade
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import parse_attrs
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import Address, Masquerade, Route, Rule

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
SEEN = Links([ETH1])
networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)
addresses = st.integers(1, 2**32 - 1).map(IPv4Address)


class Dumping:
    """A connection whose every dump is *payloads*."""

    def __init__(self, *payloads: bytes) -> None:
        self._payloads = list(payloads)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        return self._payloads


@given(
    dst=networks,
    via=st.none() | addresses,
    src=st.none() | addresses,
    table=st.integers(1, 2**32 - 1),
)
def test_routes(dst: IPv4Network, via: IPv4Address | None, src: IPv4Address | None, table: int) -> None:
    route = Route(dst=dst, dev="eth1", via=via, src=src, table=table)
    body = layer3._route_body(route, 7)
    assert layer3.list_routes(Dumping(body), SEEN) == [route]  # type: ignore[arg-type]


@given(priority=st.integers(1, 32765), src=st.none() | networks, dst=st.none() | networks, table=st.integers(1, 9999))
def test_rules(priority: int, src: IPv4Network | None, dst: IPv4Network | None, table: int) -> None:
    rule = Rule(priority=priority, src=src, dst=dst, table=table)
    assert layer3.list_rules(Dumping(layer3._rule_body(rule))) == [rule]  # type: ignore[arg-type]


@given(address=addresses, length=st.integers(1, 32))
def test_addresses(address: IPv4Address, length: int) -> None:
    thing = Address(link="eth1", address=IPv4Interface((address, length)))
    (seen,) = layer3.list_addresses(Dumping(layer3._address_body(thing, 7)), SEEN)  # type: ignore[arg-type]
    assert seen == layer3.SeenAddress(thing, 0xCA)


def test_routes_and_rules_of_another_protocol_are_left_out() -> None:
    route = bytearray(layer3._route_body(Route(dst=IPv4Network("10.0.0.0/8"), dev="eth1"), 7))
    route[5] = 3
    assert layer3.list_routes(Dumping(bytes(route)), SEEN) == []  # type: ignore[arg-type]
    rule = layer3._rule_body(Rule(priority=1, src=None, dst=None, table=5))
    other = rule.replace(b"\x05\0\x15\0\xca", b"\x05\0\x15\0\x03")
    assert other != rule
    assert layer3.list_rules(Dumping(other)) == []  # type: ignore[arg-type]


def test_a_new_link_has_the_number_that_the_next_request_names() -> None:
    index = links.make_ifindex()
    assert index >= 1 << 20
    _, _, new = links.new_vlan(index, "eth1.100", parent=7, vid=100, mtu=1500)
    _, _, mark = links.set_link(index, mark=Mark("demo", "x"))
    assert struct.unpack_from("=i", new, 4) == struct.unpack_from("=i", mark, 4) == (index,)
    assert parse_attrs(mark, 16) == {links.IFLA_IFALIAS: b"caas:demo:x"}
    assert links.IFLA_IFNAME not in parse_attrs(mark, 16), "a refused creation would let it mark another's link"
    seen = links._seen_link(new)
    assert (seen.name, seen.kind, seen.vid, seen.vlan_protocol, seen.link) == ("eth1.100", "vlan", 100, 0x8100, 7)


def test_a_peer_in_another_namespace_is_no_link_of_here() -> None:
    _, _, body = links.new_vlan(9, "v", parent=7, vid=1, mtu=1500)
    away = body + struct.pack("=HHi", 8, links.IFLA_LINK_NETNSID, 0)
    assert links._seen_link(away).link == 0


def test_bridges_of_two_hosts_have_different_unicast_local_macs() -> None:
    macs = {parse_attrs(links.new_bridge(9, "b", 1500)[2], 16)[links.IFLA_ADDRESS] for _ in range(50)}
    assert len(macs) == 50
    assert {mac[0] & 3 for mac in macs} == {2}


@given(source=networks, exempt=st.lists(networks, max_size=4))
def test_masquerades(source: IPv4Network, exempt: list[IPv4Network]) -> None:
    wanted = Masquerade(source=source, exempt=tuple(exempt), mark=Mark("demo", "x"))
    seen = masquerade._seen(masquerade._rule(wanted) | {"handle": 3})
    assert seen == masquerade.SeenMasquerade(wanted, 3)


def test_rules_of_others_and_rules_that_we_never_made_are_left_out() -> None:
    rule = masquerade._rule(Masquerade(source=IPv4Network("10.0.0.0/8"), exempt=(), mark=Mark("demo", "x")))
    assert masquerade._seen(rule | {"handle": 1, "comment": "theirs"}) is None
    assert masquerade._seen(rule | {"handle": 1, "expr": []}) is None


def test_a_mark_that_nft_would_cut_is_refused() -> None:
    wanted = Masquerade(source=IPv4Network("10.0.0.0/8"), exempt=(), mark=Mark("demo", "x" * 120))
    with pytest.raises(CaasError, match="longer than 127 bytes") as caught:
        masquerade.add_masquerade(None, wanted)  # type: ignore[arg-type]
    assert caught.value.code is Code.INVALID
