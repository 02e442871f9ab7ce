"""Where the programs of BPF tunnels stand (bpf/ipip.bpf.c), and the maps that they share."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from agent.kernel import filters
from agent.kernel.bpf import OBJECTS, BpfMap
from agent.kernel.bpf_adopted import AdoptedObject
from agent.kernel.filters import Attached, Direction
from agent.kernel.netlink import Netlink

OBJECT = OBJECTS / "ipip.bpf.o"
PRIORITY, HANDLE, NAME = 0xCB, 1, "caas:host:ipip"
TUNNELS, ENDS, SOURCES, OWN, PORTS, LEAVERS, WAYS, DROPS = (
    f"ipip_{each}" for each in ("tunnels", "ends", "sources", "own", "ports", "leavers", "ways", "drops")
)
#: Name -> sizes of key and value (of one CPU, for the last).
SHAPES = {
    TUNNELS: (4, 8),
    ENDS: (8, 16),
    SOURCES: (16, 4),
    OWN: (8, 4),
    PORTS: (4, 16),
    LEAVERS: (8, 4),
    WAYS: (12, 4),
    DROPS: (4, 8),
}
INDEX, PORT, LENGTH = struct.Struct("=I"), struct.Struct("=I6s6s"), struct.Struct("=I")
#: The value where only the key counts.
THERE = INDEX.pack(1)
Entries = dict[bytes, bytes]


class Places:
    """Finds, puts and removes programs of *programs* at links, through one connection. Raises KernelError."""

    def __init__(self, connection: Netlink, programs: AdoptedObject) -> None:
        self._connection = connection
        self._programs = programs

    def attach(self, index: int, direction: Direction, program: str) -> None:
        """In the place of whatever version of it is there."""
        filters.attach(
            self._connection,
            index,
            direction,
            self._programs.load().programs[program],
            priority=PRIORITY,
            handle=HANDLE,
            name=NAME,
        )

    def find(self, index: int, direction: Direction) -> Attached | None:
        """What of ours stands there."""
        for each in filters.list_attached(self._connection, index, (direction,)):
            if (each.priority, each.handle, each.name) == (PRIORITY, HANDLE, NAME):
                return each
        return None

    def holds(self, index: int, direction: Direction, map_name: str) -> bool:
        """Whether a program that reads our map *map_name* stands there."""
        found = self.find(index, direction)
        return found is not None and self._programs.is_read_by(found.program_id, map_name)

    def clear(self, index: int, direction: Direction) -> None:
        """Take ours away, and the clsact qdisc where it was the last."""
        if self.find(index, direction):
            filters.detach_last(self._connection, index, direction, priority=PRIORITY, handle=HANDLE)


def fits(name: str, found: BpfMap) -> bool:
    """What does not fit is left to another version's programs; the next change puts ours in their place."""
    return found.shape[1:] == SHAPES.get(name)


def rewrite(target: BpfMap, wanted: Mapping[bytes, bytes]) -> None:
    """Make the map hold *wanted*, writing only what differs: what is to go first."""
    held = dict(target.items())
    for key in held.keys() - wanted.keys():
        target.delete(key)
    for key, value in wanted.items():
        if held.get(key) != value:
            target.update(key, value)
