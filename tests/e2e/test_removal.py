"""After everything else of this tier: `make demo-down` leaves the machine as it was."""

from __future__ import annotations

from tests.support.demonstration import Demonstration
from tests.support.fingerprint import difference, take
from tests.support.netns import poll_until


def left_behind(demonstration: Demonstration) -> str:
    """What is new or changed since before the demonstration. What others ended meanwhile is their affair."""
    lines = difference(demonstration.before, take()).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("processes: - ", "cgroups: - ")))


def test_after_demo_down_the_machine_is_as_it_was(demonstration: Demonstration) -> None:
    assert f"{demonstration.lab}-host1" in left_behind(demonstration), "the comparison sees nothing"
    demonstration.down()
    poll_until(lambda: not left_behind(demonstration), deadline=30, describe=lambda: left_behind(demonstration))
    demonstration.down()
