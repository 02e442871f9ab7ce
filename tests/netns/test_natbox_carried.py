"""Connections in a real kernel's table: entered, seen by others as they were meant, listed, refused twice, ended."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from agent.kernel.natbox_carried import AT_ONCE, Carried
from proto.model import Connection, Flow, TcpProgress
from tests.support.netns import Namespaces
from tests.support.wire import inside

CONTAINER, WORLD, OURS = (int(IPv4Address(text)) for text in ("240.100.10.50", "203.0.113.254", "203.0.113.1"))
STATUS, MARK = 0x18E, 0xCA000064
OUT = Connection(
    6,
    Flow(CONTAINER, WORLD, 40000, 80),
    Flow(WORLD, OURS, 80, 1234),
    STATUS,
    400000,
    MARK,
    TcpProgress(3, (7, 9), (0x0B, 0x0B)),
)
PUBLISHED = OUT._replace(
    original=Flow(WORLD, OURS, 50000, 8774),
    reply=Flow(CONTAINER, WORLD, 80, 50000),
    status=0x1AE ^ 0x10 ^ 0x20,
    mark=0xCB000064,
)
NAME = OUT._replace(
    protocol=17, original=Flow(CONTAINER, WORLD, 5353, 53), reply=Flow(WORLD, OURS, 53, 999), timeout=100, tcp=None
)
PING = OUT._replace(
    protocol=1,
    original=Flow(CONTAINER, WORLD, 77, 8 << 8),
    reply=Flow(WORLD, OURS, 4242, 0),
    timeout=25,
    tcp=None,
)
ALL = (OUT, PUBLISHED, NAME, PING)


@pytest.fixture
def netns() -> Iterator[str]:
    namespaces = Namespaces()
    yield namespaces.add("ct")
    namespaces.close()


@pytest.fixture
def carried(netns: str) -> Iterator[Carried]:
    opened = Carried(netns=netns)
    yield opened
    opened.close()


def what_others_see(netns: str) -> dict[str, str]:
    """The kernel's own lines, by protocol."""
    lines = inside(netns, lambda: open("/proc/thread-self/net/nf_conntrack").read()).splitlines()  # noqa: SIM115
    return {line.split()[2] + ("<" if "dport=8774" in line else ""): line for line in lines}


def without_passing_time(connection: Connection) -> Connection:
    """Seconds pass; and the kernel says itself what is translated (IPS_SRC_NAT, IPS_DST_NAT and that it is done)."""
    return connection._replace(timeout=0, status=connection.status & ~0x1B0)


def test_what_is_entered_is_what_was_said(carried: Carried, netns: str) -> None:
    assert not carried.enter(ALL)
    seen = what_others_see(netns)
    assert "src=240.100.10.50 dst=203.0.113.254 sport=40000 dport=80 " in seen["tcp"]
    assert " ESTABLISHED " in seen["tcp"]
    assert "src=203.0.113.254 dst=203.0.113.1 sport=80 dport=1234 [ASSURED] " in seen["tcp"]
    assert f"mark={MARK} " in seen["tcp"]
    assert 399_000 < int(seen["tcp"].split()[4]) <= 400_000
    assert "src=203.0.113.254 dst=203.0.113.1 sport=50000 dport=8774 " in seen["tcp<"]
    assert "src=240.100.10.50 dst=203.0.113.254 sport=80 dport=50000 " in seen["tcp<"]
    assert "dst=203.0.113.1 sport=53 dport=999 " in seen["udp"]
    assert "dst=203.0.113.1 type=0 code=0 id=4242 " in seen["icmp"]


def test_what_is_entered_is_listed_and_ended(carried: Carried) -> None:
    carried.enter(ALL)
    listed = carried.list_all()
    assert {without_passing_time(each) for each in listed} == {without_passing_time(each) for each in ALL}
    assert all(each.status & 0x180 == 0x180 for each in listed), "both translations are done"
    assert {each.status & 0x30 for each in listed} == {0x10, 0x20}
    carried.end([OUT, NAME])
    assert {each.original for each in carried.list_all()} == {PUBLISHED.original, PING.original}
    carried.end(ALL)
    assert carried.list_all() == []


def test_one_socket_has_a_port_for_each_of_its_peers_and_both_ends_may_be_translated(carried: Carried) -> None:
    """From VLAN to VLAN both are. Ports are chosen at random: those of one socket differ, one may be its own."""
    peers = [
        NAME._replace(original=NAME.original._replace(destination=peer), reply=NAME.reply._replace(source=peer))
        for peer in range(WORLD, WORLD + 50)
    ]
    ports = [each._replace(reply=each.reply._replace(destination_port=5352 + i)) for i, each in enumerate(peers)]
    across = OUT._replace(
        original=Flow(CONTAINER, OURS, 40001, 8774), reply=Flow(CONTAINER + (100 << 16), OURS + 6, 80, 4321)
    )
    many = [*ports, across]
    assert not carried.enter(many)
    listed = {each.original: each for each in carried.list_all()}
    assert {(each.original, each.reply) for each in listed.values()} == {(each.original, each.reply) for each in many}
    assert all(each.status & 0x10 for each in listed.values()), "what leaves has its source translated, too"
    assert [each.original for each in listed.values() if each.status & 0x20] == [across.original]


def test_what_is_there_is_refused_and_counted_among_many(carried: Carried) -> None:
    many = [OUT._replace(original=OUT.original._replace(source_port=port + 1024)) for port in range(3 * AT_ONCE + 7)]
    many = [each._replace(reply=each.reply._replace(destination_port=port + 1024)) for port, each in enumerate(many)]
    assert not carried.enter(many[::2])
    assert carried.enter(many) == {"File exists": len(many[::2])}
    assert len(carried.list_all()) == len(many)
    carried.end(many)
    carried.end(many)
    assert carried.list_all() == []


def test_connections_of_the_machine_itself_are_not_ours(carried: Carried) -> None:
    own = OUT._replace(original=Flow(OURS, WORLD, 3000, 443), reply=Flow(WORLD, OURS, 443, 3000))
    assert not carried.enter([own])
    assert carried.list_all() == []
