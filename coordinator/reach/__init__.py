"""Who reaches whom in a cluster: one burst from all containers at once, judged from both ends, with causes."""

from coordinator.reach.burst import Agent, examine, measure
from coordinator.reach.causes import Causes
from coordinator.reach.judge import Pair, judge, list_problems
from coordinator.reach.matrix import make_matrix
from coordinator.reach.pairs import Target, targets_of
from coordinator.reach.verdicts import look

__all__ = [
    "Agent",
    "Causes",
    "Pair",
    "Target",
    "examine",
    "judge",
    "list_problems",
    "look",
    "make_matrix",
    "measure",
    "targets_of",
]
