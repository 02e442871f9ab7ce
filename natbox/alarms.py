"""What is near a limit, said before the limit is reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from proto.model import Gateway, GatewayCounters, GatewayTotals

log = logging.getLogger(__name__)
#: From this share of a limit on.
ALARM_SHARE = 0.8


def make_alarms(counted: Iterable[tuple[Gateway, GatewayCounters]], totals: GatewayTotals) -> list[str]:
    """One sentence for each limit that is nearly used up, the kernel's own table first."""
    found = []
    if _is_near(totals.connections, totals.connections_max):
        found.append(
            f"NATBox has {totals.connections} of the {totals.connections_max} connections that its kernel holds: "
            "raise net.netfilter.nf_conntrack_max, or give clusters lower limits"
        )
    found += [
        f"{gateway.name} has {counters.connections} of its {counters.connections_max} connections"
        for gateway, counters in counted
        if _is_near(counters.connections, counters.connections_max)
    ]
    return found


def _is_near(number: int, most: int) -> bool:
    return most > 0 and number >= ALARM_SHARE * most


class AlarmLog:
    """Logs what *alarms* says, once for each that it is about, and again when it had been well meanwhile."""

    def __init__(self, alarms: Callable[[], Iterable[str]]) -> None:
        self._alarms = alarms
        self._told: frozenset[str] = frozenset()

    def tell(self) -> None:
        found = {alarm.split(" has ")[0]: alarm for alarm in self._alarms()}
        for about in sorted(found.keys() - self._told):
            log.warning("near its limit: %s", found[about])
        self._told = frozenset(found)
