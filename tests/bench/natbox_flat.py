"""natbox-flat: packets through NATBox with 4,094 VLANs in its tables, against one. natbox-memory: what these take."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from agent.kernel.natbox_door import NatboxDoor
from proto.model import Gateway, Neighbour, Publication
from tests.bench.figure import Figure, Goal, make_limited, make_paired
from tests.bench.natbox_add import VID_MAX, make_vlan
from tests.bench.traffic import Traffic, alternate, drop_arrivals
from tests.support.crossing import OUTSIDE, Crossing
from tests.support.gateway import Previous

#: Issue 5.
GOAL = Goal(ratio_least=0.95)
#: Ours, MiB. 16 are the buckets of a million neighbours, which are there before the first.
MEMORY_MOST = 24
FIGURES = ("natbox-flat", "natbox-memory")
VID = 4094
SENDER, SENDER_MAC = "10.0.100.51", "02:00:00:00:64:33"


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    with ExitStack() as around:
        few, many = (Side(around, vids) for vids in (range(0), range(1, VID_MAX)))
        if "natbox-flat" in wanted:
            traffic = Traffic(folder)
            runs = alternate(lambda: many.frames(traffic), lambda: few.frames(traffic))
            yield make_paired("natbox-flat", runs, unit="packets/s", peer="with one VLAN", goal=GOAL)
        if "natbox-memory" in wanted:
            detail = [f"with one VLAN: {few.memory() / (1 << 20):.2f} MiB"]
            yield make_limited(
                "natbox-memory",
                [many.memory() / (1 << 20)],
                unit="MiB",
                limit=MEMORY_MOST,
                source="ours",
                detail=detail,
            )


class Side:
    """A NATBox with *vids*, each with a container that publishes a port, and one VLAN that sends."""

    def __init__(self, around: ExitStack, vids: range) -> None:
        self._crossing = crossing = Crossing()
        around.callback(crossing.close)
        before = _memory_of_maps()
        self._door = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=crossing.natbox)
        around.callback(self._door.close)
        self._door.lay_path()
        for vid in vids:
            self._door.create(_publishing(make_vlan(vid)))
        neighbour = Neighbour(address=ipaddress.IPv4Address(SENDER), mac=SENDER_MAC)
        sender = replace(make_vlan(VID), gateway=ipaddress.IPv4Interface("10.0.100.1/24"), neighbours=(neighbour,))
        self._door.create(sender)
        self._maps = {number: size for number, size in _memory_of_maps().items() if number not in before}
        drop_arrivals(crossing.outside, "eth0")

    def frames(self, traffic: Traffic) -> float:
        """Packets per second."""
        crossing = self._crossing
        return traffic.frames(
            crossing.raw, "eth1", crossing.trunk_mac, VID, SENDER, OUTSIDE, receiver=crossing.outside, at="eth0"
        )

    def memory(self) -> int:
        """Bytes that the kernel counts for the programs' maps; those of the nft sets are not told."""
        return sum(self._maps.values())


def _publishing(gateway: Gateway) -> Gateway:
    door = Publication(protocol="tcp", port=10_000 + gateway.vid, to=gateway.neighbours[0].address, to_port=80)
    return replace(gateway, publications=(door,))


def _memory_of_maps() -> dict[str, int]:
    """Bytes of each BPF map that this process has open, by its id (fdinfo, proc(5))."""
    found = {}
    for path in Path("/proc/self/fdinfo").iterdir():
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        except FileNotFoundError:
            continue  # the folder's own
        if "map_id" in lines:
            found[lines["map_id"].strip()] = int(lines["memlock"])
    return found
