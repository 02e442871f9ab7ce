"""Two NATBoxes, their coordinator and real traffic: handed over, taken over, cut off and come back."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether

from proto.model import Limits, Publication
from tests.support.crossing import OUTSIDE, mac_of, run
from tests.support.flows import Sender, echo
from tests.support.gateway import Station, is_ipv4, make_gateway, make_table
from tests.support.natbox_two import SHARED, A, B, Processes, TwoCrossing, two_natboxes
from tests.support.netns import poll_until
from tests.support.streams import Stream, echo_server
from tests.support.wire import Tap

GATEWAY = "192.168.10.1"
VIDS = (100, 200)
#: VLAN 100 has an address of its own, VLAN 200 the one that the two share; each publishes a port there.
EXTERNAL, PUBLISHED = "203.0.113.7", 8080
ADDRESS_OF = {100: EXTERNAL, 200: SHARED}
LISTENER = "02:00:00:00:00:77"


class Site:
    """The pair, two tenants with the same address, and a station that only a raw socket plays."""

    def __init__(self, around: TwoCrossing, processes: Processes, build: Path) -> None:
        self.around, self.processes = around, processes
        self.tenants = {vid: around.add_tenant(vid, "192.168.10.50/24", GATEWAY, build=build) for vid in VIDS}
        self.listener = Station(vid=100, mac=LISTENER, address="192.168.10.77")
        for vid, netns in self.tenants.items():
            stations = [Station(vid=vid, mac=mac_of(netns, "eth1")), *([self.listener] if vid == 100 else [])]
            gateway = make_gateway(*stations)
            inside = ipaddress.IPv4Address("192.168.10.50")
            publication = Publication(protocol="tcp", port=PUBLISHED, to=inside, to_port=9)
            external = ipaddress.IPv4Address(EXTERNAL) if vid == 100 else None
            processes.apply(A, make_table(replace(gateway, external=external, publications=(publication,))))

    def reaches(self, vid: int) -> bool:
        """Whether a new connection of the tenant's works."""
        done = run("ping", "-c1", "-W1", OUTSIDE, netns=self.tenants[vid], check=False)
        return done.returncode == 0

    def all_reach(self) -> bool:
        return all(self.reaches(vid) for vid in VIDS)

    def neighbour(self, netns: str, address: str) -> str:
        """The MAC that *netns* has for *address*."""
        words = run("ip", "neigh", "show", address, netns=netns).stdout.split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def check_that_works(self, to: str, away: str, epoch: int) -> None:
        """Everybody has found the NATBox *to*, and *away* has nothing left but its table."""
        assert self.processes.standing(to) == ("active", epoch)
        assert self.processes.standing(away) == ("standby", epoch)
        poll_until(partial(self.has_forgotten, away), deadline=20)
        for netns in self.tenants.values():
            assert self.neighbour(netns, GATEWAY) == self.around.mac(to, "eth1")
        for address in ADDRESS_OF.values():
            assert self.neighbour(self.around.outside, address) == self.around.mac(to, "eth2")
        assert self.all_reach()

    def has_forgotten(self, address: str) -> bool:
        """Whether that NATBox has no entry with an inner address."""
        return "src=240." not in run("cat", "/proc/net/nf_conntrack", netns=self.around.boxes[address]).stdout

    def forget_neighbours(self) -> None:
        """Who waited for an answer in vain begins at once."""
        for netns in self.tenants.values():
            run("ip", "neigh", "flush", "all", netns=netns)

    def ask_for_gateway(self, tap: Tap) -> None:
        ask = ARP(op=1, hwsrc=LISTENER, psrc=self.listener.address, pdst=GATEWAY)
        tap.send(bytes(Ether(src=LISTENER, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=100) / ask))

    def answers(self, tap: Tap, seconds: float) -> list[tuple[float, str]]:
        """Ask every 20 ms for VLAN 100's gateway; when each answer came and who sent it."""
        began, heard = time.monotonic(), []
        while (now := time.monotonic() - began) < seconds:
            self.ask_for_gateway(tap)
            for frame in tap.collect(lambda frame: frame.ethertype == 0x0806, count=1 << 16, timeout=0.02):
                arp = ARP(frame.payload)
                if frame.destination == LISTENER and arp.op == 2 and arp.psrc == GATEWAY:
                    heard.append((now, frame.source))
        return heard


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("two")
    with two_natboxes(folder) as (around, processes):
        yield Site(around, processes, folder)


@pytest.fixture
def site(pair: Site) -> Site:
    """The pair, of which A works."""
    pair.processes.forget_entries()
    if pair.processes.standing(A)[0] != "active":
        pair.processes.hand_over("--to", A)
    assert pair.all_reach()
    return pair


def test_connections_outlive_a_hand_over_there_and_back(site: Site) -> None:
    around, processes = site.around, site.processes
    first, second = site.tenants.values()
    with (
        echo_server(around.outside, 7) as connections,
        echo(around.outside, 7) as peers,
        echo_server(first, 9),
        echo_server(second, 9),
    ):
        ways = [*((netns, (OUTSIDE, 7)) for netns in (first, second) * 3)]
        ways += [(around.outside, (address, PUBLISHED)) for address in ADDRESS_OF.values()]
        streams = [Stream(netns, peer, seed=number) for number, (netns, peer) in enumerate(ways)]
        with Sender(first, (OUTSIDE, 7)) as one, Sender(second, (OUTSIDE, 7)) as other:
            time.sleep(0.5)
            before = set(peers)
            assert len(before) == 2
            epoch = processes.standing(A)[1]
            for to, away in ((B, A), (A, B)):
                epoch += 1
                done = processes.hand_over()
                assert (done["to"], done["epoch"], done["refused"]) == (to, epoch, 0)
                assert done["connections"] >= len(streams) + 2
                assert done["seconds"] < 3
                site.check_that_works(to, away, epoch)
                time.sleep(0.3)
            lost = one.finish(patience=0.5), other.finish(patience=0.5)
            assert peers == before, "a flow that began anew would have another port"
            assert max(lost) < 0.5 * one.sent, "and packets flowed for most of the time"
        for stream in streams:
            stream.finish()
            assert stream.sent > 100_000
        assert len(connections) == 6
        assert {address for address, _ in connections | peers} == {SHARED, EXTERNAL}


def test_one_that_dies_is_taken_over_and_stays_closed_when_it_comes_back(site: Site) -> None:
    around, processes = site.around, site.processes
    # The standby has the tables before: it will be told nothing more than to work.
    poll_until(lambda: processes.tables(B) == {"c100", "c200"}, deadline=15)
    processes.kill(A)
    around.set_links(A, "down")
    site.forget_neighbours()
    died = time.time()
    poll_until(site.all_reach, deadline=15, describe=lambda: processes.log("coordinator"))
    works = time.time()
    poll_until(lambda: processes.entries("natbox:take-over")[0][1], deadline=5)
    ((noticed, over, outcome, _),) = processes.entries("natbox:take-over")
    assert outcome == "done"
    assert over is not None
    assert max(works, over) - noticed < 3
    assert works - died < 10
    assert site.neighbour(around.outside, SHARED) == around.mac(B, "eth2")
    with Tap(around.raw, "eth1") as tap:
        # Its daemon is dead, and its kernel would go on where it was.
        around.set_links(A, "up")
        heard = site.answers(tap, 1.5)
        old = [when for when, source in heard if source == around.mac(A, "eth1")]
        assert {source for _, source in heard} <= {around.mac(A, "eth1"), around.mac(B, "eth1")}
        assert not [when for when in old if when > 0.4], "it heard of the other's epoch, and closed"
        assert len(heard) - len(old) > 20, "the other answers every time"
        processes.start_natbox(A)
        assert processes.call(A, "Standing")["role"] == "standby"
        assert {source for _, source in site.answers(tap, 1.0)} == {around.mac(B, "eth1")}
    assert run("ip", "-o", "address", "show", "dev", "eth2", netns=around.boxes[A]).stdout == ""
    with Tap(around.outside, "eth0") as world:
        ask = ARP(op=1, hwsrc=mac_of(around.outside, "eth0"), psrc=OUTSIDE, pdst=SHARED)
        world.send(bytes(Ether(src=mac_of(around.outside, "eth0"), dst="ff:ff:ff:ff:ff:ff") / ask))
        heard_there = world.collect(lambda frame: frame.ethertype == 0x0806, count=100, timeout=0.5)
        replies = [frame.source for frame in heard_there if ARP(frame.payload).op == 2]
        assert replies == [around.mac(B, "eth2")]
    assert site.all_reach()
    around.set_default_route(around.boxes[A])
    # The coordinator's channel to it may be in its back-off yet, for at most 0.6 s.
    poll_until(lambda: is_handed_over(processes, A), deadline=10)
    assert site.all_reach()


def is_handed_over(processes: Processes, to: str) -> bool:
    try:
        return bool(processes.hand_over()["to"] == to)
    except AssertionError as refused:
        if "Connection refused" not in str(refused):
            raise
        return False


def test_one_that_boots_waits_and_a_dead_daemon_costs_nothing(site: Site) -> None:
    around, processes = site.around, site.processes
    netns = around.boxes[A]
    with echo(around.outside, 7), Sender(site.tenants[100], (OUTSIDE, 7)) as sender:
        processes.kill(A)
        poll_until(lambda: processes.entries("natbox:take-over"), deadline=10)
        time.sleep(1)
        assert sender.finish() == 0, f"of {sender.sent}"
    ((_, _, outcome, message), *_) = processes.entries("natbox:take-over")
    assert outcome == "failed"
    assert "another NATBox works" in message
    assert processes.standing(B)[0] == "standby"
    # A power cut takes what the kernel had.
    run("tc", "qdisc", "del", "dev", "eth1", "clsact", netns=netns)
    run("nft", "flush", "ruleset", netns=netns)
    run("ip", "address", "flush", "dev", "eth2", netns=netns)
    with Tap(around.raw, "eth1") as tap:
        processes.start_natbox(A)
        poll_until(lambda: "active" in (processes.standing(A)[0], processes.standing(B)[0]), deadline=15)
        working = A if processes.standing(A)[0] == "active" else B
        answers = {source for _, source in site.answers(tap, 1.0)}
        assert answers == {around.mac(working, "eth1")}
    site.forget_neighbours()
    around.set_default_route(netns)
    poll_until(site.all_reach, deadline=10)


def test_what_was_handed_over_goes_on_and_counts_for_no_limit(site: Site) -> None:
    """A limit's list in the kernel (nf_conncount) has what it saw begin; what is entered in conntrack is not in it."""
    around, processes = site.around, site.processes
    station = Station(vid=300, mac="02:00:00:00:00:c3")
    most = 3
    processes.apply(A, make_table(replace(make_gateway(station), limits=Limits(connections=most))))

    def send(to: str, ports: range) -> int:
        """A packet from each port; how many left."""
        world.drain()
        for port in ports:
            packet = UDP(sport=port, dport=7) / b"limited"
            trunk.send(station.packet(packet, to=OUTSIDE, gateway_mac=around.mac(to, "eth1")))
        is_ours = lambda frame: is_ipv4(frame) and b"limited" in frame.data  # noqa: E731
        return len(world.collect(is_ours, count=len(ports), timeout=0.5))

    def open_and_most(address: str) -> tuple[int, int]:
        (counters,) = processes.call(address, "Counters", cluster="c300")["counters"]
        return int(counters["connections"]), int(counters["connectionsMax"])

    first, second, third = range(4000, 4000 + most), range(5000, 5000 + most), range(6000, 6000 + most)
    with echo(around.outside, 7), Tap(around.raw, "eth1") as trunk, Tap(around.outside, "eth0") as world:
        assert (send(A, first), send(A, second)) == (most, 0)
        assert processes.hand_over()["to"] == B
        assert send(B, first) == most, "they go on"
        assert (send(B, second), send(B, third)) == (most, 0), "as many as the limit may begin beside them"
        assert (send(B, first), send(B, second)) == (most, most), "nobody was put out for another"
        assert open_and_most(B) == (2 * most, most), "people are told of all"
