"""What passed NATBox and what it dropped, read from the programs' maps. Pure but for looking into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kernel import natbox_layout as layout
from agent.kernel.bpf import BpfMap
from proto.model import GatewayCounters


def read_counters(
    maps: Mapping[str, BpfMap], vid: int, stack_drops: Mapping[str, int], *, connections: int, connections_max: int
) -> GatewayCounters:
    """Those of one VID; *stack_drops* are what the rules dropped of it, by reason."""
    key = layout.make_vid_key(vid)
    traffic, drops = maps["nb_traffic"].lookup(key), maps["nb_drops"].lookup(key)
    assert traffic is not None  # arrays have every index
    assert drops is not None
    out_packets, out_bytes, in_packets, in_bytes = layout.read_traffic(traffic)
    return GatewayCounters(
        vid=vid,
        out_packets=out_packets,
        out_bytes=out_bytes,
        in_packets=in_packets,
        in_bytes=in_bytes,
        drops=tuple(sorted({**layout.read_drops(drops), **stack_drops}.items())),
        connections=connections,
        connections_max=connections_max,
    )


def read_trunk_drops(maps: Mapping[str, BpfMap], owned: Iterable[int]) -> dict[str, int]:
    """What was dropped that belongs to none of the VIDs *owned*, by reason."""
    sums: dict[str, int] = {}
    skipped = set(owned)
    for key, value in maps["nb_drops"].items():
        if value != layout.NO_DROPS and layout.read_vid_key(key) not in skipped:
            for reason, number in layout.read_drops(value).items():
                sums[reason] = sums.get(reason, 0) + number
    return sums
