"""natbox-add: a cluster's VLAN is added through NATBox's RPC, where 4,093 others are, against where one other is.

"One other" and not none: the first VLAN of all also lays the path that all share, and would make the last look good.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from agent.kernel.natbox_door import NatboxDoor
from proto.model import Gateway, Neighbour
from tests.bench.asked import Asked
from tests.bench.figure import Figure, Goal, make_paired
from tests.support.crossing import Crossing
from tests.support.gateway import Previous
from tests.support.natbox_daemon import LISTEN, daemon

#: Issue 5: the last at most 1.5 times the first, and below 20 ms.
GOAL = Goal(ratio_most=1.5, most=20)
FIGURES = ("natbox-add",)
VID_MAX = 4094
PAIRS = 9


def make_vlan(vid: int) -> Gateway:
    """A cluster of its own with one container; all have the same subnet."""
    neighbour = Neighbour(
        address=ipaddress.IPv4Address("192.168.10.50"), mac=f"02:00:00:00:{vid >> 8:02x}:{vid & 255:02x}"
    )
    return Gateway(
        cluster=f"c{vid}",
        network="cluster",
        vid=vid,
        gateway=ipaddress.IPv4Interface("192.168.10.1/24"),
        neighbours=(neighbour,),
    )


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The one figure. Works in *folder*."""
    with ExitStack() as around:
        few, _ = around.enter_context(_site(folder / "few", range(1, 2)))
        many, door_times = around.enter_context(_site(folder / "many", range(1, VID_MAX)))
        answers = []
        for site in (few, many):
            site.ask("add")  # the first call of a channel also pays for what is kept later
        for number in range(PAIRS):
            if number % 2:
                first, last = few.ask("add"), many.ask("add")
            else:
                last, first = many.ask("add"), few.ask("add")
            answers.append((last, first))
    removals = [f"{median(pair[side]['remove'] for pair in answers):.1f} ms" for side in (0, 1)]
    first_hundred, last_hundred = median(door_times[:100]), median(door_times[-100:])
    yield make_paired(
        "natbox-add",
        [(last["add"], first["add"]) for last, first in answers],
        unit="ms",
        peer="adding the second VLAN",
        goal=GOAL,
        detail=(
            f"removing it again: {removals[0]} with {VID_MAX - 1} others, {removals[1]} with one",
            f"of adding, the kernel's maps: {last_hundred:.2f} ms late, {first_hundred:.2f} ms early (a hundred each)",
        ),
    )


@contextmanager
def _site(folder: Path, vids: Iterable[int]) -> Iterator[tuple[Asked, list[float]]]:
    """A NATBox that has *vids*, a client that adds the last VID there is, and the milliseconds each VID took.

    The VLANs are laid through the door, and adopted by the daemon when it starts, as after a loss of its files.
    """
    folder.mkdir()
    with ExitStack() as around:
        crossing = Crossing()
        around.callback(crossing.close)
        times = _fill(crossing, vids)
        serving = around.enter_context(daemon(crossing, folder))
        words = (LISTEN, folder / "coordinator", VID_MAX)
        client = Asked(crossing.management, "tests.bench.natbox_client", words, log=folder / "client.log")
        around.callback(client.close)
        assert len(list((serving.state / "desired").glob("*.json"))) == len(times), "not every VLAN was adopted"
        yield client, times


def _fill(crossing: Crossing, vids: Iterable[int]) -> list[float]:
    door = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=crossing.natbox)
    try:
        door.lay_path()
        times = []
        for vid in vids:
            began = time.perf_counter()
            door.create(make_vlan(vid))
            times.append((time.perf_counter() - began) * 1e3)
        return times
    finally:
        door.close()
