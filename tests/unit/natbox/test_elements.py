"""What a VLAN has in the nft sets is read back as it was; and which connections a change ends."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.kernel import natbox_elements as elements
from agent.kernel.natbox_connections import Connection
from agent.kernel.natbox_cut import make_cut
from agent.kernel.nfnetlink import make_attribute, make_nested, read_attributes
from proto.model import Gateway, Limits, Neighbour, OwnAddress, Publication
from tests.unit.natbox.test_table import EXTERNAL, OTHER_EXTERNAL, WEB, publisher

OUTSIDE = ipaddress.IPv4Address("203.0.113.254")
INNER = ipaddress.IPv4Address("240.100.10.50")


@st.composite
def gateways(draw: st.DrawFn) -> Gateway:
    subnet = ipaddress.IPv4Interface(draw(st.sampled_from(("192.168.10.1/24", "10.9.0.1/16", "172.16.8.1/30"))))
    hosts = list(subnet.network.hosts())[1:200]
    inside = draw(st.lists(st.sampled_from(hosts), unique=True, min_size=1, max_size=5))
    ports = st.integers(1, 65535)
    doors = draw(st.lists(st.tuples(st.sampled_from(("tcp", "udp")), ports), unique=True, max_size=5))
    owners = draw(st.lists(st.sampled_from(inside), unique=True, max_size=3))
    return Gateway(
        cluster="demo",
        network="n",
        vid=draw(st.integers(1, 4094)),
        gateway=subnet,
        neighbours=tuple(Neighbour(address=address, mac="02:00:00:00:00:01") for address in sorted(inside)),
        external=draw(st.sampled_from((None, EXTERNAL))),
        publications=tuple(
            Publication(protocol=name, port=port, to=draw(st.sampled_from(inside)), to_port=draw(ports))
            for name, port in sorted(doors)
        ),
        own_addresses=tuple(
            OwnAddress(external=OTHER_EXTERNAL + number, address=address) for number, address in enumerate(owners)
        ),
        limits=Limits(connections=draw(st.integers(0, 1 << 24)), connections_per_second=draw(st.integers(0, 9))),
    )


@given(gateway=gateways())
def test_what_was_written_is_read_back(gateway: Gateway) -> None:
    places = elements.make_elements(gateway)
    assert len({(name, element.key) for name, element in places}) == len(places), "no place twice"
    assert all(elements.read_vid(place) == gateway.vid for place in places)
    assert {name for name, _ in places} <= set(elements.OF_VLAN)
    seen = elements.read_doors(gateway.gateway, places)
    assert (seen.external, seen.publications, seen.own_addresses, seen.limits) == (
        gateway.external,
        gateway.publications,
        gateway.own_addresses,
        gateway.limits,
    )


def test_a_plain_vlan_has_no_element() -> None:
    assert elements.make_elements(publisher(100)) == []


def test_attributes_are_padded_and_read_back() -> None:
    data = make_attribute(1, b"abcde") + make_nested(2, make_attribute(3, b"x"))
    assert len(data) == 12 + 4 + 8
    ((first, text), (second, inner)) = read_attributes(data)
    assert (first, text, second, list(read_attributes(inner))) == (1, b"abcde", 2, [(3, b"x")])
    assert struct.unpack_from("=HH", data) == (9, 1), "the length leaves the padding out"


def connection(**more: object) -> Connection:
    """From the container at HOME in VLAN 100 to the outside, by the uplink's address."""
    usual = {
        "mark": 0xCA000064,
        "protocol": 6,
        "source": INNER,
        "destination": OUTSIDE,
        "destination_port": 443,
        "answer_source": OUTSIDE,
        "answer_destination": ipaddress.IPv4Address("203.0.113.1"),
        "key": b"",
    }
    return Connection(**{**usual, **more})  # type: ignore[arg-type]


def test_a_change_ends_what_came_by_a_door_that_is_gone_and_nothing_else() -> None:
    other_port = replace(WEB, port=81)
    before = publisher(100, WEB, other_port, own=OTHER_EXTERNAL)
    come = {"source": OUTSIDE, "destination": ipaddress.IPv4Address("203.0.113.1"), "answer_source": INNER}
    by_80, by_81 = connection(**come, destination_port=80), connection(**come, destination_port=81)
    by_own = connection(source=OUTSIDE, destination=OTHER_EXTERNAL, answer_source=INNER, destination_port=80)
    left_by_own = connection(answer_destination=OTHER_EXTERNAL)
    assert make_cut(before, replace(before, limits=Limits(connections=1))) is None
    fewer = make_cut(before, replace(before, publications=(WEB,)))
    assert fewer is not None
    assert [fewer(one) for one in (by_80, by_81, by_own, left_by_own, connection())] == [
        False,
        True,
        False,
        False,
        False,
    ]
    poorer = make_cut(before, replace(before, own_addresses=()))
    assert poorer is not None
    assert [poorer(one) for one in (by_80, by_81, by_own, left_by_own, connection())] == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_a_change_of_the_external_address_ends_what_left_by_the_old_one() -> None:
    before = publisher(100, external=EXTERNAL)
    cut = make_cut(before, replace(before, external=OTHER_EXTERNAL))
    assert cut is not None
    assert cut(connection(answer_destination=EXTERNAL))
    assert not cut(connection())
    assert make_cut(publisher(100), before) is None, "the uplink's own stays NATBox's"
