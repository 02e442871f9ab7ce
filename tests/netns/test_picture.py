"""The picture of seed 001 carries packets: a Rally file, compiled, applied to hosts that only a router joins, in both
realisations of a tunnel. Every pair, both directions, judged at the far ends and on the router's links.
"""

from __future__ import annotations

import socket
import threading
from collections import ChainMap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.kernel import tunnel_sources as why
from tests.netns.conftest import TUNNELS
from tests.support import oracle
from tests.support.netns import poll_until, run
from tests.support.picture import Picture
from tests.support.wire import Frame, Tap, inside

MTU = 1480
ECHO_REQUEST = 8
ICMP, IPIP, TCP = 1, 4, 6
PORT = 5001
SAID = bytes(range(256)) * 256
BLOCKS = [IPv4Network("10.100.1.0/24"), IPv4Network("10.100.2.0/24"), IPv4Network("10.0.3.0/24")]
#: Containers, by the picture's addresses; and the hosts that the computes' blocks are tunnelled to.
BOXES = {"computes-1": "10.100.1.2", "computes-2": "10.100.2.2", "control": "10.0.3.2"}
PEERS = {"control": "192.168.1.13", "rally": "10.1.1.20"}
COMPUTES = [BOXES["computes-1"], BOXES["computes-2"]]
PAIRS = [
    *((one, other) for one in BOXES.values() for other in BOXES.values() if one != other),
    *((one, other) for one in PEERS.values() for other in COMPUTES),
    *((one, other) for one in COMPUTES for other in PEERS.values()),
]


@dataclass(frozen=True, kw_only=True)
class Header:
    """Of an IPv4 packet."""

    source: str
    destination: str
    protocol: int
    body: bytes


@pytest.fixture(scope="module", params=TUNNELS)
def picture(request: pytest.FixtureRequest) -> Iterator[Picture]:
    made = Picture(str(request.param))
    try:
        # What is not the agent's to change, it names with its mend. One host is asked for all: guests are slow.
        (lack,) = made.doors["computes-1"].lacks(made.wanted["computes-1"])
        assert lack.mend == "sysctl -w net.ipv4.conf.eth0.forwarding=1"
        for name, state in made.wanted.items():
            run(lack.mend, netns=made.hosts[name])
            made.put(name, state)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def places(picture: Picture) -> dict[str, str]:
    """Where each address of PAIRS is: a namespace."""
    boxes = {str(address): name for boxes in picture.boxes.values() for address, name in boxes.names.items()}
    return boxes | {address: picture.hosts[host] for host, address in PEERS.items()}


@pytest.fixture
def taps(picture: Picture) -> Iterator[list[Tap]]:
    """All links of the router."""
    with ExitStack() as stack:
        yield [stack.enter_context(Tap(picture.router, f"to{number}")) for number in range(len(picture.hosts))]


def read(packet: bytes) -> Header:
    size = (packet[0] & 15) * 4
    source, destination = (str(IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return Header(source=source, destination=destination, protocol=packet[9], body=packet[size:])


def on_the_way(taps: Sequence[Tap]) -> list[Header]:
    """Outer headers of what came to the router."""
    frames: list[Frame] = [frame for tap in taps for frame in tap.drain()]
    return [read(frame.payload) for frame in frames if frame.ethertype == 0x0800]


def ping_all(places: dict[str, str], size: int, *, wait: int = 2) -> dict[tuple[str, str], bool]:
    """Which pairs' far ends answer an unfragmented packet of *size* bytes; one shell for each near end."""

    def ping_from(one: str) -> dict[tuple[str, str], bool]:
        others = [other for near, other in PAIRS if near == one]
        command = f"ping -n -M do -s {size - 28} -c 1 -W {wait} -I {one} $t >/dev/null 2>&1 && echo $t"
        said = run(f"for t in {' '.join(others)}; do ( {command} ) & done; wait", netns=places[one]).split()
        return {(one, other): other in said for other in others}

    near = list(dict.fromkeys(one for one, _ in PAIRS))
    with ThreadPoolExecutor(len(near)) as pool:
        return dict(ChainMap(*pool.map(ping_from, near)))


def test_the_picture_is_the_seeds(picture: Picture) -> None:
    assert {str(address) for boxes in picture.boxes.values() for address in boxes.names} == set(BOXES.values())
    assert {name: str(end) for name, end in picture.ends.items()} == PEERS | {
        "computes-1": "192.168.10.1",
        "computes-2": "192.168.10.2",
    }
    for name in ("computes-1", "computes-2"):
        link = oracle.links(picture.hosts[name])["t192.168.1.13"]
        assert link["mtu"] == MTU


def test_every_pair_reaches_each_other_up_to_the_mtu_and_in_tunnels_alone(
    picture: Picture, places: dict[str, str], taps: list[Tap]
) -> None:
    everything = dict.fromkeys(PAIRS, True)
    poll_until(lambda: ping_all(places, 84) == everything, deadline=30, describe=lambda: ping_all(places, 84))
    on_the_way(taps)
    assert ping_all(places, MTU) == everything
    seen = on_the_way(taps)
    assert {header.protocol for header in seen} == {IPIP}, "nothing goes past the tunnels"
    inner = [read(header.body) for header in seen]
    asked = [
        (each.source, each.destination) for each in inner if each.protocol == ICMP and each.body[0] == ECHO_REQUEST
    ]
    assert sorted(asked) == sorted(PAIRS), "each with its own addresses, once"
    ends = set(map(str, picture.ends.values()))
    assert {address for header in seen for address in (header.source, header.destination)} == ends
    assert ping_all(places, MTU + 1, wait=1) == dict.fromkeys(PAIRS, False)
    assert on_the_way(taps) == []


def test_tcp_both_ways_between_every_pair_with_its_own_source(
    picture: Picture, places: dict[str, str], taps: list[Tap]
) -> None:
    seen: list[Header] = []
    for one, other in PAIRS:
        with inside(places[other], lambda where=other: socket.create_server((where, PORT))) as server:  # type: ignore[misc]
            assert (one, other, *exchange(places[one], other, server)) == (one, other, one, SAID, SAID)
        seen += on_the_way(taps)  # a tap holds as much as net.core.rmem_max lets it
    assert {header.protocol for header in seen} == {IPIP}
    inner = {(each.source, each.destination) for each in (read(header.body) for header in seen) if each.protocol == TCP}
    assert inner == set(PAIRS)


def exchange(client: str, address: str, server: socket.socket) -> tuple[str, bytes, bytes]:
    """SAID both ways over a connection to *server*: the source that it sees, and what each got."""
    server.settimeout(20)
    got: list[bytes] = []

    def send_and_receive(peer: socket.socket) -> bytes:
        peer.settimeout(20)
        sender = threading.Thread(target=peer.sendall, args=(SAID,))
        sender.start()
        parts = bytearray()
        while len(parts) < len(SAID) and (part := peer.recv(1 << 16)):
            parts += part
        sender.join()
        return bytes(parts)

    with inside(client, lambda: socket.create_connection((address, PORT), timeout=20)) as near:
        far, (source, _) = server.accept()
        with far:
            thread = threading.Thread(target=lambda: got.append(send_and_receive(far)))
            thread.start()
            heard = send_and_receive(near)
            thread.join()
    return source, got[0], heard


def test_outside_the_overlay_a_container_has_its_hosts_address(
    picture: Picture, places: dict[str, str], taps: list[Tap]
) -> None:
    """A host that nothing is tunnelled to: what the judge would see if the overlay were masqueraded."""
    run("ping -n -c 1 -W 2 192.168.10.2", netns=places["10.100.1.2"])
    asked = [header for header in on_the_way(taps) if header.protocol == ICMP and header.body[0] == ECHO_REQUEST]
    assert [(header.source, header.destination) for header in asked] == [("192.168.10.1", "192.168.10.2")]


def test_nothing_was_dropped_and_nothing_is_left_to_do(picture: Picture) -> None:
    for name, state in picture.wanted.items():
        assert picture.doors[name].tunnel_drops() == dict.fromkeys(why.REASONS, 0), name
        writes = picture.doors[name].writes
        assert picture.put(name, state) == ()
        assert picture.doors[name].writes == writes
