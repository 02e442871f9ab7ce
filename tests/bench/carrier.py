"""What two ways of carrying packets are compared by: one TCP stream (…-tcp), and packets per second (…-pps)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from tests.bench.figure import Figure, Goal, make_paired, make_unmeasured
from tests.bench.traffic import Traffic, alternate
from tests.conftest import kernel_words

#: By what a figure's name ends in.
UNITS = {"tcp": "Gb/s", "pps": "packets/s"}
#: By kind (tests/conftest.py).
DRIVERS = {"vlan": "8021q", "ipip": "ipip"}
#: Figures, by name, and their goals; None: it is there to compare others with.
Goals = Mapping[str, Goal | None]


class Carrier(Protocol):
    """From one place to another."""

    def stream(self, traffic: Traffic) -> float:
        """Gb/s of one TCP connection."""

    def packets(self, traffic: Traffic) -> float:
        """Packets of 60-byte frames that arrive per second."""


def compare(goals: Goals, ours: Carrier, other: Carrier, *, peer: str, traffic: Traffic) -> Iterator[Figure]:
    """Each figure of *goals*, of *ours* against *other*, which *peer* describes."""
    for name, goal in goals.items():
        kind = _kind_of(name)
        if kind == "tcp":
            runs = alternate(lambda: ours.stream(traffic), lambda: other.stream(traffic))
        else:
            runs = alternate(lambda: ours.packets(traffic), lambda: other.packets(traffic))
        yield make_paired(name, runs, unit=UNITS[kind], peer=peer, goal=goal)


def find_lacking(goals: Goals, device: str) -> list[Figure]:
    """Each figure of *goals*, unmeasured, where this kernel makes no *device* ("vlan", "ipip"); none where it does."""
    words = kernel_words(device)
    if not words:
        return []
    why = f"this kernel has no {DRIVERS[device]}: {words}"
    return [
        make_unmeasured(name, unit=UNITS[_kind_of(name)], goal=goal, why=why, lacks=device)
        for name, goal in goals.items()
    ]


def _kind_of(name: str) -> str:
    return name.rpartition("-")[2]
