"""All of it: ask, judge, and where something fails look for the cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from coordinator.reach.burst import Agent, examine, measure
from coordinator.reach.causes import Causes
from coordinator.reach.judge import Pair, judge
from coordinator.reach.pairs import targets_of
from proto.model import ClusterHost


async def look(cluster: str, desired: Mapping[str, ClusterHost], agents: Mapping[str, Agent]) -> tuple[Pair, ...]:
    """Every pair of *cluster*, judged; takes about a second, and three where something fails."""
    reports = await measure(cluster, targets_of(desired), agents)
    pairs = judge(reports)
    if all(pair.ok for pair in pairs):
        return pairs
    causes = Causes(desired, reports, await examine(cluster, reports, agents))
    return tuple(pair if pair.ok else replace(pair, verdict=causes.explain(pair)) for pair in pairs)
