"""A cluster's share of NATBox: how many connections it has, and how many begin in a second."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import UDP

from agent.kernel.natbox_chains import make_shares
from proto.model import Gateway, Limits, Publication
from tests.support.crossing import UPLINK, run
from tests.support.gateway import Station, make_gateway
from tests.support.natbox_box import A, B, Box, make_box

MANY = 20


@pytest.fixture
def box() -> Iterator[Box]:
    yield from make_box()


def limit(box: Box, station: Station, limits: Limits, before: Gateway | None = None) -> Gateway:
    earlier = before or make_gateway(station)
    return box.change(earlier, replace(earlier, limits=limits))


def begin(box: Box, station: Station, number: int, *, first: int = 4000) -> int:
    """*number* connections of *station*'s; how many packets left."""
    for port in range(first, first + number):
        box.send(station, UDP(sport=port, dport=53) / b"question")
    return len(box.packets(box.world))


def test_a_vlan_has_no_more_connections_than_its_limit_and_others_do_not_notice(box: Box) -> None:
    limit(box, A, Limits(connections=5))
    before = box.drain()
    assert begin(box, A, MANY) == 5
    assert box.drops_since(before) == {(100, "too many connections"): MANY - 5}
    assert begin(box, B, MANY) == MANY
    mine, others = box.door.counters([A.vid, B.vid])
    assert (mine.connections, mine.connections_max) == (5, 5)
    assert (others.connections, others.connections_max) == (MANY, box.door.shares.connections)
    for _ in range(3):  # also while nobody has answered them, and many in the same moment
        assert begin(box, A, 5) == 5, "those that there are go on"


def test_a_vlan_begins_no_more_connections_in_a_second_than_its_limit(box: Box) -> None:
    limit(box, A, Limits(connections_per_second=4))
    before = box.drain()
    passed = begin(box, A, MANY)
    assert 4 <= passed <= 8, "four at once, and as many as became free meanwhile"
    assert box.drops_since(before) == {(100, "too many new connections"): MANY - passed}
    assert begin(box, B, MANY) == MANY


def test_what_comes_in_counts_too(box: Box) -> None:
    made = limit(box, A, Limits(connections=3))
    door = Publication(protocol="udp", port=53, to=ipaddress.IPv4Address(A.address), to_port=53)
    box.change(made, replace(made, publications=(door,)))
    before = box.drain()
    for port in range(9000, 9000 + MANY):
        box.come(UDP(sport=port, dport=53), to=UPLINK)
    assert len(box.packets(box.trunk)) == 3
    assert begin(box, A, MANY) == 0
    assert box.drops_since(before) == {(100, "too many connections"): 2 * MANY - 3}
    for _ in range(3):
        for port in range(9000, 9003):
            box.come(UDP(sport=port, dport=53), to=UPLINK)
        assert len(box.packets(box.trunk)) == 3, "those that there are go on"
    # From another VLAN: the limit is that of the one who is asked.
    box.send(B, UDP(sport=4000, dport=53), to=UPLINK)
    box.hears_nothing(box.trunk)


def test_a_limit_is_changed_and_taken_back(box: Box) -> None:
    limited = limit(box, A, Limits(connections=2))
    assert begin(box, A, 4) == 2
    wider = limit(box, A, Limits(connections=8), limited)
    assert begin(box, A, MANY, first=5000) == 8, "counted from the change on"
    limit(box, A, Limits(), wider)
    assert begin(box, A, MANY, first=6000) == MANY


def test_a_vlan_without_limits_has_natboxs_share(box: Box) -> None:
    assert begin(box, A, 1) == 1
    shown = run("nft", "list", "set", "ip", "caas_natbox", "held", netns=box.around.natbox).stdout
    assert f"240.100.0.0 ct count over {box.door.shares.connections}" in shown
    seen = box.door.observe([make_gateway(A)]).vlans[100]
    assert (seen.gateway.limits, seen.intact) == (Limits(), True)
    assert make_shares(262144).connections == 16384
    assert make_shares(0).connections == 4096


def test_a_limit_outlives_the_connections_that_it_counted(box: Box) -> None:
    """From a dynamic set the kernel would remove the element, at the latest a second after the last has ended."""
    limited = limit(box, A, Limits(connections=2))
    assert begin(box, A, 4) == 2
    box.door._connections.end_all(100)
    time.sleep(2.5)
    seen = box.door.observe([limited]).vlans[100]
    assert (seen.gateway, seen.intact) == (limited, True)
    assert begin(box, A, 4, first=5000) == 2


def test_a_removed_vlan_leaves_no_limit_to_the_next(box: Box) -> None:
    limited = limit(box, A, Limits(connections=2, connections_per_second=2))
    assert begin(box, A, 4) == 2
    box.door.delete(limited)
    box.door.create(make_gateway(A))
    before = box.drain()
    assert begin(box, A, MANY) == MANY
    assert box.drops_since(before) == {}
