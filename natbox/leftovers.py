"""What is still there of NATBox's after a removal. Looks only, and shares nothing with what removes."""

from __future__ import annotations

from pathlib import Path

from agent.kernel.leftovers import NetworkLeftovers
from proto.errors import CaasError


class Leftovers:
    """Of the NATBox whose folder is *state*, in its network namespace, or in that of *netns*."""

    def __init__(self, state: Path, *, netns: str | None = None) -> None:
        self._state = state
        self._network = NetworkLeftovers(netns=netns)

    def find(self, cluster: str, *, is_last: bool) -> tuple[str, ...]:
        """What is left of *cluster*; where it was the last one, of the path that all share. A line each for people.

        Where it cannot be looked, that is what is told.
        """
        saved = self._state / "desired" / f"{cluster}.json"
        found = [f"file {saved}"] if saved.exists() else []
        if not is_last:
            return tuple(found)
        previous = self._state / "previous.json"
        found += [f"settings as they were before, in {previous}"] if previous.exists() else []
        try:
            found += self._network.find_of_natbox()
        except CaasError as exc:
            found.append(f"it cannot be looked at: {exc.message}")
        return tuple(found)
