"""Where packets leave the overlay for the world, TCP never needs one that is above the chain of MTUs: read on the wire.

box eth0 1500 --- lxcbr0 1480 [host] eth1 MTU of the case --- eth1 1500 [wire]
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Address, Bridge, Forward, Masquerade
from tests.support import oracle
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, Site, poll_until, run
from tests.support.wire import Tap, inside

MARK = Mark("demo", "lan")
BOX = "10.20.1.5"
BRIDGE_MTU = 1480
MASQUERADE = Masquerade(source=IPv4Network("10.20.1.0/24"), exempt=(IPv4Network("10.20.0.0/16"),), mark=MARK)
THINGS = (
    Bridge(name="lxcbr0", mtu=BRIDGE_MTU, mark=MARK),
    Address(link="lxcbr0", address=IPv4Interface("10.20.1.1/24")),
    MASQUERADE,
    Forward(address=IPv4Address(HOST_ADDRESS), port=1222, to=IPv4Address(BOX), to_port=22, mark=Mark("demo", "c1")),
)
SYN, SYN_ACK = 0x02, 0x12


@pytest.fixture
def door(site: Site) -> Iterator[NetlinkDoor]:
    run("sysctl -qw net.ipv4.conf.eth1.forwarding=1", netns=site.host)
    with NetlinkDoor(netns=site.host, vlan="bpf") as opened:
        for thing in THINGS:
            opened.create(thing)
        yield opened


@pytest.fixture
def box(site: Site, door: NetlinkDoor) -> str:
    made = site.add_box("box", "lxcbr0", address=f"{BOX}/24")
    run("ip route add default via 10.20.1.1", netns=made)
    poll_until(lambda: run(f"ping -c 1 -W 1 {BOX} >/dev/null && echo yes", netns=site.host, check=False), deadline=10)
    return made


def silence(netns: str) -> None:
    """Nobody hears of "fragmentation needed", as behind many a filter."""
    run(
        "nft 'add table ip deaf; add chain ip deaf in { type filter hook input priority 0; };"
        "add rule ip deaf in icmp type destination-unreachable drop'",
        netns=netns,
    )


def read_sizes(tap: Tap, flags: int) -> set[int]:
    """The segment sizes that packets with exactly *flags* announced on their arrival."""
    packets = [frame.payload for frame in tap.drain() if frame.ethertype == 0x0800 and frame.payload[9] == 6]
    opening = [packet for packet in packets if packet[33] == flags]
    assert all(packet[40:42] == b"\2\4" for packet in opening), "it is the first option"
    return {int.from_bytes(packet[42:44], "big") for packet in opening}


def talk(client: str, asked: tuple[str, int], server: str, listening: tuple[str, int], data: bytes) -> bool:
    """Whether *data* went over a connection whole, both ways."""
    listener = inside(server, lambda: socket.create_server(listening))
    listener.settimeout(5)
    echoed = bytearray()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            heard = bytearray()
            while len(heard) < len(data):
                heard += connection.recv(1 << 16)
            connection.sendall(heard)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, inside(client, lambda: socket.create_connection(asked, timeout=5)) as connection:
        connection.sendall(data)
        while len(echoed) < len(data):
            echoed += connection.recv(1 << 16)
        thread.join()
    return bytes(echoed) == data


@pytest.mark.parametrize("uplink_mtu", [1500, 1400])
@pytest.mark.parametrize("opener", ["box", "world"])
def test_both_ends_are_told_what_the_narrowest_link_carries(site: Site, box: str, uplink_mtu: int, opener: str) -> None:
    run(f"ip link set eth1 mtu {uplink_mtu}", netns=site.host)
    assert {oracle.links(netns)[link]["mtu"] for netns, link in ((box, "eth0"), (site.wire, "eth1"))} == {1500}
    for netns in (box, site.wire):
        silence(netns)
    data = os.urandom(1 << 18)
    with Tap(box, "eth0") as inner, Tap(site.wire, "eth1") as outer:
        if opener == "box":
            assert talk(box, (WIRE_ADDRESS, 80), site.wire, (WIRE_ADDRESS, 80), data)
        else:
            assert talk(site.wire, (HOST_ADDRESS, 1222), box, (BOX, 22), data)
        first, second = (outer, inner) if opener == "box" else (inner, outer)
        told = min(uplink_mtu, BRIDGE_MTU) - 40
        assert read_sizes(first, SYN) == {told}
        assert read_sizes(second, SYN_ACK) == {told}


def test_without_the_rules_they_would_be_told_more(site: Site, box: str) -> None:
    run("nft flush chain ip caas forward", netns=site.host)
    with Tap(box, "eth0") as inner, Tap(site.wire, "eth1") as outer:
        assert talk(box, (WIRE_ADDRESS, 80), site.wire, (WIRE_ADDRESS, 80), b"little")
        assert (read_sizes(outer, SYN), read_sizes(inner, SYN_ACK)) == ({1460}, {1460})


def test_it_lives_and_dies_with_the_masquerade(site: Site, door: NetlinkDoor) -> None:
    rules = [each["rule"] for each in oracle.ruleset(site.host) if "rule" in each]
    assert [rule["comment"] for rule in rules if rule["chain"] == "forward"] == ["caas:demo:lan"] * 2
    run("nft flush chain ip caas forward", netns=site.host)
    (seen,) = door.observe().state.masquerades
    assert seen != MASQUERADE
    door.change(seen, MASQUERADE)
    assert door.observe().state.masquerades == (MASQUERADE,)
    door.change(MASQUERADE, replace(MASQUERADE, exempt=()))
    door.delete(MASQUERADE)
    chains = {each["chain"]["name"] for each in oracle.ruleset(site.host) if "chain" in each}
    assert not chains & {"postrouting", "forward"}
