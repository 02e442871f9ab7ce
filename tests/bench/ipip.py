"""ipip-*: traffic between containers' places on two hosts through a tunnel, against the same route without one.

box1 eth0 -- lxcbr0 [host1] eth1 === eth1 [host2] lxcbr0 -- eth0 box2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Bridge
from tests.bench.carrier import Goals, compare, find_lacking
from tests.bench.figure import Figure, Goal
from tests.bench.traffic import Traffic, drop_arrivals
from tests.support.netns import Site, poll_until, run
from tests.support.tunnelled import ENDS, MTU, add_box, make, make_container, make_end

#: facts.md: 16.5 of 17.3 Gb/s, and 279 of 259 kpps: out of a tunnel of ours packets pass bridge and nft by.
STREAM_GOAL, PACKETS_GOAL = Goal(ratio_least=0.95), Goal(ratio_least=1.0)
#: The kernel's own is what ours is compared to, and has no goal of its own.
FIGURES = ("ipip-tcp", "ipip-pps", "ipip-kernel-tcp", "ipip-kernel-pps")
PEER = "the same route without a tunnel"
UNDERLAY_MTU = 1500
TARGET = "10.9.2.2"


class Crossing:
    """Two hosts with a box behind each; *realisation* of the tunnel between them, or "" for plain routes."""

    def __init__(self, realisation: str, around: ExitStack) -> None:
        site = Site()
        around.callback(site.close)
        hosts = {1: site.host, 2: site.wire}
        doors = {
            number: around.enter_context(NetlinkDoor(netns=netns, ipip=realisation or "auto"))  # type: ignore[arg-type]
            for number, netns in hosts.items()
        }
        for number, door in doors.items():
            if realisation:
                make(door, make_end(number))
            else:
                self._make_plain(door, hosts[number], number)
        self.boxes = {number: add_box(site, number) for number in hosts}
        for number, box in self.boxes.items():
            run(f"ip link set eth0 mtu {MTU if realisation else UNDERLAY_MTU}", netns=box)
            doors[number].set_port_mark(make_container(number))
        poll_until(
            lambda: run(f"ping -q -c 1 -W 1 {TARGET} && echo yes", netns=self.boxes[1], check=False), deadline=15
        )
        drop_arrivals(self.boxes[2], "eth0")

    def _make_plain(self, door: NetlinkDoor, netns: str, number: int) -> None:
        door.create(Bridge(name="lxcbr0", mtu=UNDERLAY_MTU, mark=Mark("demo", "lan")))
        run(f"ip address add 10.9.{number}.1/24 dev lxcbr0", netns=netns)
        run(f"ip route add 10.9.{3 - number}.0/24 via {ENDS[3 - number]}", netns=netns)
        run("echo 1 > /proc/sys/net/ipv4/ip_forward", netns=netns)

    def stream(self, traffic: Traffic) -> float:
        return traffic.stream(self.boxes[1], self.boxes[2], TARGET)

    def packets(self, traffic: Traffic) -> float:
        return traffic.datagrams(self.boxes[1], TARGET, self.boxes[2], "eth0")


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    traffic = Traffic(folder)
    all_goals: dict[str, Goals] = {
        "bpf": {"ipip-tcp": STREAM_GOAL, "ipip-pps": PACKETS_GOAL},
        "kernel": {"ipip-kernel-tcp": None, "ipip-kernel-pps": None},
    }
    for realisation, names in all_goals.items():
        goals = {name: goal for name, goal in names.items() if name in wanted}
        lacking = find_lacking(goals, "ipip") if realisation == "kernel" else []
        yield from lacking
        if goals and not lacking:
            with ExitStack() as around:
                tunnelled, plain = Crossing(realisation, around), Crossing("", around)
                yield from compare(goals, tunnelled, plain, peer=PEER, traffic=traffic)
