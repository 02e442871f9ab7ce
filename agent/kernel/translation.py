"""nft table `ip caas`: what becomes of packets between containers and the world. A thing may have several rules.

A thing's rules carry its mark as their comment and are made, replaced and removed in one transaction. Each chain goes
with its last rule and the table with its last chain. What others put there is neither seen nor touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from agent.kernel.nft import Command, Nft
from proto.errors import invalid
from proto.marks import Mark, parse_mark

FAMILY, TABLE = "ip", "caas"
COMMENT_MAX = 127  # NFTNL_UDATA_COMMENT_MAXLEN less the NUL
MANGLE, DSTNAT, SRCNAT = -150, -100, 100  # linux/netfilter_ipv4.h
_CHAINS = {
    "answers": {"type": "filter", "hook": "prerouting", "prio": MANGLE},
    "prerouting": {"type": "nat", "hook": "prerouting", "prio": DSTNAT},
    "output": {"type": "nat", "hook": "output", "prio": DSTNAT},
    "forward": {"type": "filter", "hook": "forward", "prio": MANGLE},
    "postrouting": {"type": "nat", "hook": "postrouting", "prio": SRCNAT},
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rule to be: its chain, one of those above, and what it says (libnftables-json(5))."""

    chain: str
    expressions: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A rule of ours, with the handle that nft knows it by."""

    chain: str
    expressions: tuple[Command, ...]
    mark: Mark
    handle: int

    def says(self, name: str) -> Any:
        """The argument of its statement *name* (`dnat`), or None where it has none."""
        return next((each[name] for each in self.expressions if name in each), None)

    def matches(self, left: Command) -> list[Any]:
        """What *left* is compared with, in the rule's order."""
        found = (each["match"] for each in self.expressions if "match" in each)
        return [compared["right"] for compared in found if compared["left"] == left]


class Translation:
    """The table in the namespace that *nft* works in."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft

    def list_rules(self) -> list[Seen]:
        """Every rule that carries our mark."""
        return [
            Seen(rule["chain"], tuple(rule["expr"]), mark, rule["handle"])
            for rule in _of("rule", self._nft.list_table(FAMILY, TABLE))
            if (mark := parse_mark(rule.get("comment")))
        ]

    def change(self, *, what: str, mark: Mark, make: Sequence[Wanted] = (), remove: Collection[Seen] = ()) -> None:
        """Remove and make rules at once. Nothing is called where there is nothing to do. INVALID for a long mark."""
        if len(str(mark).encode()) > COMMENT_MAX:
            raise invalid(f"{what}: its mark {mark} is longer than {COMMENT_MAX} bytes")
        table = {"family": FAMILY, "name": TABLE}
        commands: list[Command] = []
        if make:
            commands.append({"add": {"table": table}})
        for chain in dict.fromkeys(each.chain for each in make):
            place = {"family": FAMILY, "table": TABLE, "name": chain}
            commands.append({"add": {"chain": place | _CHAINS[chain] | {"policy": "accept"}}})
        for each in make:
            rule = {"family": FAMILY, "table": TABLE, "chain": each.chain, "comment": str(mark)}
            commands.append({"add": {"rule": rule | {"expr": [*each.expressions]}}})
        commands += self._removal(remove, kept={each.chain for each in make})
        if commands:
            self._nft.change(commands, what=what)

    def _removal(self, remove: Collection[Seen], *, kept: Collection[str]) -> list[Command]:
        """Chains where nothing is left go with what is in them, and so does the table."""
        if not remove:
            return []
        listed = self._nft.list_table(FAMILY, TABLE)
        gone = {each.handle for each in remove}
        staying = {rule["chain"] for rule in _of("rule", listed) if rule["handle"] not in gone} | {*kept}
        emptied = {each.chain for each in remove} - staying
        if {chain["name"] for chain in _of("chain", listed)} <= emptied:
            return [{"delete": {"table": {"family": FAMILY, "name": TABLE}}}]
        place = {"family": FAMILY, "table": TABLE}
        rules = [{"rule": place | {"chain": each.chain, "handle": each.handle}} for each in remove]
        chains = [{"chain": place | {"name": chain}} for chain in sorted(emptied)]
        return [{"delete": each} for each in (*rules, *chains)]


def _of(kind: str, listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each[kind] for each in listed if kind in each]


def header(protocol: str, field: str) -> Command:
    """A field of a packet's header, to compare."""
    return {"payload": {"protocol": protocol, "field": field}}


def match(left: Command, right: object, *, operator: str = "==") -> Command:
    """A comparison."""
    return {"match": {"op": operator, "left": left, "right": right}}


def network_to_nft(network: IPv4Network) -> object:
    """As nft lists it: a whole address has no length."""
    address = str(network.network_address)
    return address if network.prefixlen == 32 else {"prefix": {"addr": address, "len": network.prefixlen}}


def network_from_nft(right: Any) -> IPv4Network:
    """The inverse of `network_to_nft`. Raises ValueError for what is no network."""
    if isinstance(right, str):
        return IPv4Network(IPv4Address(right))
    try:
        return IPv4Network((right["prefix"]["addr"], right["prefix"]["len"]))
    except (TypeError, KeyError) as exc:
        raise ValueError(f"{right!r} is no network") from exc
