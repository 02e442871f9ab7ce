"""What agents report of a burst, read from their JSON (agent/kernel/burst_program.py). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.reach.pairs import Target
from proto.errors import CaasError, Code

ECHO_REPLY, ECHO_REQUEST = 0, 8  # RFC 792


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one container said: `answered`, `refused` and `told` by target's address, `heard` by asker's address.

    `answered` has {"reached", "full", "seconds"}; `refused` the errno's name; `told` {"code", "by", "mtu"} of an ICMP
    "unreachable"; `heard` {"source", "full"}; `facts` {"up", "mtu", "addresses", "routes"}. `failure` is why it could
    not be asked.
    """

    target: Target
    answered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    heard: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    twins: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    reverse_path: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Packets in a tunnel from one container to another as one host saw them: how many, and the longest in bytes."""

    sent: int
    received: int
    sent_size: int
    received_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What one host's agent said of its containers and of itself; `failure` is why it said nothing,
    `is_away` whether because nobody could reach it.

    `outer` by the tunnel's two ends, the two containers' addresses and whether they were answers; `tagged` by VID and
    the sender's MAC: frames sent and received on any trunk. `reverse_path`, `neighbour_overflows` and
    `tunnel_drops` (by reason) grew by so much during the burst.
    """

    host: str
    reports: Mapping[str, Report]
    reverse_path: int = 0
    neighbour_overflows: int = 0
    tunnel_drops: Mapping[str, int] = field(default_factory=dict)
    outer: Mapping[tuple[str, str, str, str, bool], Passed] = field(default_factory=dict)
    tagged: Mapping[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    failure: str = ""
    is_away: bool = False


def read_host_report(host: str, targets: Sequence[Target], text: str, tunnel_drops: Mapping[str, int]) -> HostReport:
    """FAILED where *text* is no report."""
    try:
        found = json.loads(text)
        return HostReport(
            host=host,
            reports={one.name: _read(one, found) for one in targets},
            reverse_path=int(found["reverse_path"]),
            neighbour_overflows=int(found["neighbour_overflows"]),
            tunnel_drops=dict(tunnel_drops),
            outer={
                (local, remote, source, target, kind == ECHO_REPLY): Passed(
                    sent=sent, received=received, sent_size=sent_size, received_size=received_size
                )
                for local, remote, source, target, kind, sent, received, sent_size, received_size in found["outer"]
                if kind in (ECHO_REPLY, ECHO_REQUEST)
            },
            tagged=_sum_tagged(found["tagged"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise CaasError(Code.FAILED, f"{host}: its report cannot be read: {exc}", hint="is its agent older?") from exc


def make_unasked(host: str, targets: Sequence[Target], failure: str, *, is_away: bool) -> HostReport:
    """A host whose agent says nothing; with *is_away* because it cannot be reached."""
    reports = {one.name: Report(target=one, failure=failure) for one in targets}
    return HostReport(host=host, reports=reports, failure=failure, is_away=is_away)


def _read(target: Target, found: Mapping[str, Any]) -> Report:
    failure = found["failures"].get(target.name, "")
    said = found["reports"].get(target.name)
    if said is None or failure:
        return Report(target=target, failure=failure or "nothing is known of it")
    return Report(target=target, **said)


def _sum_tagged(found: Sequence[Sequence[Any]]) -> dict[tuple[int, str], tuple[int, int]]:
    sums: dict[tuple[int, str], tuple[int, int]] = {}
    for _, vid, mac, sent, received in found:
        before = sums.get((vid, mac), (0, 0))
        sums[vid, mac] = (before[0] + sent, before[1] + received)
    return sums
