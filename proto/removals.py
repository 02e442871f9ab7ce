"""What was removed, and at which generation: so that nothing of before a removal, which comes late, is done after it.

A call may reach a host when its caller has long given it up. An Apply from before a removal would bring the cluster
back, and a removal from before an Apply would take it away again: the generation says which of two is the older.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from proto.errors import CaasError, Code

#: How many are remembered: of the last removals. A call is late by minutes, not by so many clusters.
KEPT = 1024
_HINT = "another coordinator changed it: look with `caas status`, and give the command again"


class Kept(Protocol):
    """Where they outlive the process (proto.disk.Saved)."""

    def load_removed(self) -> dict[str, int]: ...
    def save_removed(self, removed: Mapping[str, int]) -> None: ...


class Removals:
    """The generation of each cluster's last removal. Not for several threads at once."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._removed = kept.load_removed()

    def all(self) -> dict[str, int]:
        """Cluster -> the generation of its removal; also of clusters that were brought up since."""
        return dict(self._removed)

    def check_apply(self, cluster: str, generation: int, *, is_empty: bool) -> None:
        """Raise STALE where *generation* of *cluster* is not above that of its removal: it comes too late.

        An empty state may be of the removal's own generation: nothing is what was left.
        """
        removed = self._removed.get(cluster, 0)
        if generation < removed or (generation == removed and not is_empty):
            raise CaasError(
                Code.STALE,
                f"{cluster}: generation {generation} comes after the removal at generation {removed}",
                hint=_HINT,
            )

    def remember(self, cluster: str, generation: int, in_force: Mapping[str, int]) -> None:
        """Remember that *cluster* was removed at *generation*. Those that a generation *in_force* is above are
        forgotten."""
        if generation <= self._removed.get(cluster, 0):
            return
        rest = {
            name: removed
            for name, removed in self._removed.items()
            if name != cluster and in_force.get(name, 0) <= removed
        }
        removed = dict([*rest.items(), (cluster, generation)][-KEPT:])
        self._kept.save_removed(removed)
        self._removed = removed


def check_removal(cluster: str, generation: int, in_force: int, *, is_empty: bool) -> None:
    """Raise STALE where a removal's *generation* is not above the one *in_force*: what it was to remove is gone, and
    this was brought up since. 0 is above all; *is_empty*: what is in force is nothing, of that same removal perhaps.
    """
    if generation and (generation < in_force or (generation == in_force and not is_empty)):
        raise CaasError(
            Code.STALE,
            f"{cluster}: its removal at generation {generation} is older than generation {in_force}, in force",
            hint=_HINT,
        )
