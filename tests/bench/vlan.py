"""vlan-*: traffic through two hosts' bridges and a trunk, tagged on the trunk, against the same untagged.

box1 eth0 -- br [host1] trunk -- trunk [host2] br -- eth0 box2      tagged: the trunk's vlan is the bridge's port;
                                                                    untagged: the trunk itself is
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agent.kernel.door import NetlinkDoor
from proto.marks import Mark
from proto.model import Bridge, Vlan
from tests.bench.carrier import compare, find_lacking
from tests.bench.figure import Figure, Goal
from tests.bench.traffic import Traffic, drop_arrivals
from tests.support.netns import Namespaces, run

#: facts.md: 15.7 of 16.2 Gb/s, and 227 of 299 kpps, which is 0.76: a push, a pop and two passes more cost that.
STREAM_GOAL, PACKETS_GOAL = Goal(ratio_least=0.9), Goal(ratio_least=0.76)
FIGURES = ("vlan-tcp", "vlan-pps", "vlan-kernel-tcp", "vlan-kernel-pps")
MARK = Mark("bench", "cluster")
VID, MTU = 100, 1500
BRIDGE = "lxcbr100"
PREFIX = "10.77.0"


class Crossing:
    """Two boxes, two hosts, a trunk; *realisation* of the vlan, or "" for none."""

    def __init__(self, realisation: str, around: ExitStack) -> None:
        namespaces = Namespaces()
        around.callback(namespaces.close)
        self._hosts = [namespaces.add(f"h{number}") for number in (1, 2)]
        self.boxes = [namespaces.add(f"b{number}") for number in (1, 2)]
        run(f"ip link add trunk netns {self._hosts[0]} type veth peer name trunk netns {self._hosts[1]}")
        for host in self._hosts:
            run("ip link set trunk up", netns=host)
            if realisation:
                self._make_vlan(host, realisation, around)
            else:
                run(f"ip link add {BRIDGE} type bridge mcast_snooping 0 && ip link set {BRIDGE} up", netns=host)
                run(f"ip link set trunk master {BRIDGE}", netns=host)
        for number, (host, box) in enumerate(zip(self._hosts, self.boxes, strict=True), 1):
            run(f"ip link add port netns {host} type veth peer name eth0 netns {box}")
            run(f"ip link set port master {BRIDGE} up", netns=host)
            run(f"ip link set eth0 up && ip address add {PREFIX}.{number}/24 dev eth0", netns=box)
        run(f"ping -q -c 1 -W 5 {PREFIX}.2", netns=self.boxes[0])
        drop_arrivals(self.boxes[1], "eth0")

    def _make_vlan(self, host: str, realisation: str, around: ExitStack) -> None:
        door = around.enter_context(NetlinkDoor(netns=host, vlan=realisation))  # type: ignore[arg-type]
        door.create(Bridge(name=BRIDGE, mtu=MTU, mark=MARK))
        door.create(Vlan(name=f"trunk.{VID}", parent="trunk", vid=VID, mtu=MTU, master=BRIDGE, mark=MARK))

    def stream(self, traffic: Traffic) -> float:
        return traffic.stream(self.boxes[0], self.boxes[1], f"{PREFIX}.2")

    def packets(self, traffic: Traffic) -> float:
        return traffic.datagrams(self.boxes[0], f"{PREFIX}.2", self.boxes[1], "eth0")


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    traffic = Traffic(folder)
    for realisation, infix in (("bpf", ""), ("kernel", "kernel-")):
        goals = {f"vlan-{infix}tcp": STREAM_GOAL, f"vlan-{infix}pps": PACKETS_GOAL}
        goals = {name: goal for name, goal in goals.items() if name in wanted}
        lacking = find_lacking(goals, "vlan") if realisation == "kernel" else []
        yield from lacking
        if goals and not lacking:
            with ExitStack() as around:
                tagged, untagged = Crossing(realisation, around), Crossing("", around)
                yield from compare(goals, tagged, untagged, peer="the same bridges, untagged", traffic=traffic)
