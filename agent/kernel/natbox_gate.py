"""The gate in front of NATBox's two programs: one map entry that says whether anything passes (docs/adr/0012)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.kernel.bpf import BpfMap
from agent.kernel.natbox_path import SeenPiece

MAP = "nb_gate"
_GATE = struct.Struct("=QQI6s6x")
_ONLY = struct.pack("=I", 0)
SIZE = _GATE.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Epoch 0: nobody said that there are two. `heard` is the epoch of the NATBox whose word on the trunk closed it."""

    epoch: int = 0
    is_open: bool = True
    heard: int = 0


def make_gate(gate: Gate, mac: bytes) -> bytes:
    """The map's value. *mac* is the trunk's, for answers."""
    return _GATE.pack(gate.epoch, gate.heard, int(not gate.is_open), mac)


def read_gate(value: bytes) -> Gate:
    epoch, heard, closed, _ = _GATE.unpack(value)
    return Gate(epoch=epoch, is_open=not closed, heard=heard)


def find_gate(maps: Mapping[str, BpfMap]) -> Gate | None:
    """The gate in *maps*; None where no program of ours is attached, or one that knows no gate."""
    value = maps[MAP].lookup(_ONLY) if MAP in maps else None
    return read_gate(value) if value is not None else None


class GatePiece:
    """A piece of the path (agent.kernel.natbox_path.Piece), made after the programs, whose map it writes.

    One that another NATBox closed stays so: only an order with a higher epoch opens it.
    """

    title = "gate"

    def __init__(self, maps: Callable[[], Mapping[str, BpfMap]], wanted: Gate, mac: bytes) -> None:
        self._maps = maps
        self._wanted = wanted
        self._mac = mac

    def look(self) -> SeenPiece:
        found = find_gate(self._maps())
        is_there = (
            found is not None and found.epoch == self._wanted.epoch and (not found.is_open or self._wanted.is_open)
        )
        return SeenPiece(is_there=is_there, is_left=False)

    def make(self) -> None:
        maps = self._maps()
        if MAP in maps:
            maps[MAP].update(_ONLY, make_gate(self._wanted, self._mac))

    def remove(self) -> None:
        """It goes with its map."""
