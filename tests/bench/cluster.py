"""up-*: the demonstration's clusters in labs of the bench's own, through the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.figure import Figure, make_limited
from tests.bench.steps import describe_up
from tests.support.demonstration import Demonstration

ONE, TWO = "examples/demo.yaml", "examples/demo-two-computes.yaml"
#: Seconds; those of issue 2.
LIMITS = {"up-one": 120.0, "up-second-compute": 45.0, "up-unchanged": 2.0}
FIGURES = tuple(LIMITS)
ROUNDS, UNCHANGED = 2, 3


class Rounds:
    """What was measured so far: seconds by figure, and where they went."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in LIMITS}
        self.told: dict[str, list[tuple[str, ...]]] = {name: [] for name in LIMITS}

    def play(self, lab: str) -> None:
        """One round, from a fresh lab to none."""
        played = Demonstration(lab)
        try:
            played.caas("lab", "up", "--name", lab)
            self._up(played, "up-one", ONE)
            self._up(played, "up-second-compute", TWO)
            for _ in range(UNCHANGED):
                self._up(played, "up-unchanged", TWO)
        finally:
            played.down()

    def _up(self, played: Demonstration, figure: str, file: str) -> None:
        began = time.perf_counter()
        done = played.caas("up", file)
        self.seconds[figure].append(time.perf_counter() - began)
        self.told[figure].append(describe_up(done.stderr.decode(), done.stdout.decode()))
        unchanged = b"nothing to do" in done.stdout
        assert unchanged is (figure == "up-unchanged"), f"caas up {file}: {done.stdout.decode()}"

    def slow(self, figure: str) -> tuple[str, ...]:
        """Where the time went in the median round."""
        seconds = self.seconds[figure]
        middle = min(range(len(seconds)), key=lambda number: abs(seconds[number] - median(seconds)))
        return self.told[figure][middle]


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*: all of them come from the same rounds."""
    rounds = Rounds()
    for number in range(ROUNDS):
        rounds.play(f"bench{os.getpid()}-{number}")
    for name, limit in LIMITS.items():
        if name in wanted:
            yield make_limited(
                name,
                rounds.seconds[name],
                unit="s",
                limit=limit,
                source="the limit of issue 2",
                detail=rounds.slow(name),
            )
