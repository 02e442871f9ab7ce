"""verify-64: `caas verify`'s look at 64 containers of one host, through the agent's RPC: 4,032 pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from coordinator.lab.sysctls import raise_limits, restore_limits
from tests.bench.containers import add_host, run_agent
from tests.bench.figure import Figure, make_limited
from tests.bench.many import COUNT, IMAGE
from tests.support.netns import Namespaces

#: Issue 3.
LIMIT = 5.0
FIGURES = ("verify-64",)
ROUNDS = 3
PAIRS = COUNT * (COUNT - 1)


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The one figure. Works in *folder*, which must take overlays as /var/lib/caas does."""
    build_image(ImageStore(folder / "images"), IMAGE, say=lambda text: None)
    namespaces = Namespaces()
    ledger = folder / "sysctls.json"
    answers = []
    try:
        with run_agent(add_host(namespaces, "agent"), folder, module="tests.bench.verify_client") as client:
            for _ in range(ROUNDS):
                # 64 that know each other have 4,032 neighbours, and a kernel keeps 1,024 unless told otherwise, as a
                # lab tells it. Each time: a lab beside this that ends puts back what it found.
                raise_limits(ledger=ledger)
                answers.append(client.ask("go"))
    finally:
        restore_limits(ledger=ledger)
        namespaces.close()
    for answer in answers:
        assert (answer["pairs"], answer["failed"]) == (PAIRS, []), f"{answer['pairs']} pairs, {answer['failed'][:5]}"
    slowest = median(answer["slowest"] for answer in answers)
    yield make_limited(
        "verify-64",
        [answer["seconds"] for answer in answers],
        unit="s",
        limit=LIMIT,
        source="the limit of issue 3",
        detail=(f"{PAIRS} pairs, all well; the slowest answer came after {slowest * 1000:.0f} ms",),
    )
