"""up-64, up-65th, compute-memory, compute-memory-dense: one controller with 64 computes, in labs of the bench's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

from tests.bench.critical import describe_path, read_run
from tests.bench.figure import Figure, Goal, make_limited, make_paired
from tests.bench.memory import Container, containers_pss, describe_containers, saved_by_merging
from tests.support.demonstration import Demonstration

CLUSTER = "many"
COUNT = 64
#: Issue 3: seconds; times; MB.
UP_SECONDS, NEXT_RATIO, MEGABYTES, DENSE_MEGABYTES = 240.0, 1.2, 150.0, 95.0
SOURCE = f"the limit of issue 3, with {COUNT} running"
FIGURES = ("up-64", "up-65th", "compute-memory", "compute-memory-dense")
#: One compute more, so often.
MORE = 3
#: How long nova-computes that have come up are let be before they are looked at, and how long merging may take.
SETTLE, MERGE_SECONDS, LOOK_EVERY = 60.0, 420.0, 20.0
#: Merging is done when a look finds this much less than the one before it, or more.
LITTLE = 0.005


def make_file(count: int, *, density: str = "normal") -> str:
    """A controller and *count* computes, on the two hosts of a lab by turns."""
    computes = "".join(
        f"  node{number:03d}: {{host: host{1 + number % 2}, network: cluster, roles: [compute]}}\n"
        for number in range(1, count + 1)
    )
    return (
        f"name: {CLUSTER}\ndensity: {density}\nhosts:\n  host1: {{address: 192.168.2.25, trunk: eth1}}\n"
        "  host2: {address: 192.168.2.26, trunk: eth1}\n"
        "natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}\n"
        "networks:\n  cluster: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}\n"
        f"containers:\n  control: {{host: host1, network: cluster, roles: [controller]}}\n{computes}"
    )


class Site:
    """One lab, and the cluster in it."""

    def __init__(self, lab: str, folder: Path) -> None:
        self._played = Demonstration(lab)
        self._folder = folder
        self._journal = Path("/var/lib/caas/labs") / lab / "coordinator/state/journal.db"

    @contextmanager
    def up(self) -> Iterator[None]:
        """The lab, for as long as it lasts."""
        try:
            self._played.caas("lab", "up", "--name", self._played.lab)
            yield
        finally:
            self._played.down()

    def grow(self, count: int, *, density: str = "normal") -> float:
        """Seconds until *count* computes are up in nova and a server has booted on the last."""
        file = self._folder / f"{count}.yaml"
        file.write_text(make_file(count, density=density))
        began = time.perf_counter()
        self._played.caas("up", str(file))
        seconds = time.perf_counter() - began
        found = self._played.document("status", CLUSTER, "--json")["nova"]["computes_up"]
        assert found == count, f"{found} computes of {count} are up"
        return seconds

    def critical_path(self) -> tuple[str, ...]:
        return describe_path(read_run(self._journal, CLUSTER))

    def computes(self) -> list[Container]:
        """What each compute's container takes."""
        shown = self._played.document("status", CLUSTER, "--json")["containers"]
        return containers_pss({one["name"]: one["pid"] for one in shown if one["name"] != "control"})


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. At most three labs, one after the other."""
    name = f"bench{os.getpid()}-s"
    pairs: list[list[float]] = [[], []]
    if "up-65th" in wanted:
        site = Site(f"{name}1", folder)
        with site.up():
            site.grow(1)
            pairs[1] = [site.grow(1 + more) for more in range(1, MORE + 1)]
    if not wanted.isdisjoint(("up-64", "up-65th", "compute-memory")):
        site = Site(f"{name}2", folder)
        with site.up():
            seconds = site.grow(COUNT)
            if "up-64" in wanted:
                path = site.critical_path()
                yield make_limited("up-64", [seconds], unit="s", limit=UP_SECONDS, source=SOURCE, detail=path)
            if "compute-memory" in wanted:
                time.sleep(SETTLE)
                yield _memory("compute-memory", [site.computes()], MEGABYTES)
            if "up-65th" in wanted:
                pairs[0] = [site.grow(COUNT + more) for more in range(1, MORE + 1)]
                yield make_paired(
                    "up-65th",
                    list(zip(*pairs, strict=True)),
                    unit="s",
                    peer="one compute more where there is one",
                    goal=Goal(ratio_most=NEXT_RATIO),
                )
    if "compute-memory-dense" in wanted:
        site = Site(f"{name}3", folder)
        with site.up():
            site.grow(COUNT, density="high")
            yield _memory("compute-memory-dense", list(_while_merging(site)), DENSE_MEGABYTES)


def _while_merging(site: Site) -> Iterator[list[Container]]:
    """A look every so often, until the last two say the same."""
    deadline = time.monotonic() + MERGE_SECONDS
    before = float("inf")
    while time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        found = site.computes()
        yield found
        now = mean(one.total for one in found)
        if now > before * (1 - LITTLE):
            return
        before = now


def _memory(name: str, looks: list[list[Container]], limit: float) -> Figure:
    """The mean of the containers at the last of *looks*."""
    means = [mean(one.total for one in found) / 1e6 for found in looks]
    totals = [one.total / 1e6 for one in looks[-1]]
    spread = f"from {min(totals):.1f} to {max(totals):.1f} MB, median {median(totals):.1f} MB"
    course = [f"{LOOK_EVERY:g} s apart: {', '.join(f'{one:.1f}' for one in means)} MB"] if means[1:] else []
    return make_limited(
        name,
        means[-1:],
        unit="MB",
        limit=limit,
        source=SOURCE,
        detail=(spread, *course, *saved_by_merging(), *describe_containers(looks[-1])),
    )
