"""Who reaches whom in a cluster: one burst from every container at once, judged from both ends."""

from coordinator.reach.burst import Reach, Target, measure, targets_of
from coordinator.reach.judge import Pair, judge, make_matrix

__all__ = ["Pair", "Reach", "Target", "judge", "make_matrix", "measure", "targets_of"]
