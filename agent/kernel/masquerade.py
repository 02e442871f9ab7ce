"""Masquerading: nft table `ip caas`, one rule for each Masquerade, which its comment marks.

The table is ours and goes with its last rule. One rule holds all exemptions, so that a change is one replacement.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from agent.kernel.nft import Command, Nft
from proto.errors import CaasError, Code, invalid
from proto.marks import parse_mark
from proto.model import Masquerade

FAMILY, TABLE, CHAIN = "ip", "caas", "postrouting"
COMMENT_MAX = 127  # NFTNL_UDATA_COMMENT_MAXLEN less the NUL
_PLACE = {"family": FAMILY, "table": TABLE, "chain": CHAIN}


@dataclass(frozen=True, slots=True)
class SeenMasquerade:
    """A rule of ours with the handle that nft knows it by."""

    thing: Masquerade
    handle: int


def list_masquerades(nft: Nft) -> list[SeenMasquerade]:
    """Every rule of the table that carries our mark."""
    rules = [each["rule"] for each in nft.list_table(FAMILY, TABLE) if "rule" in each]
    return [seen for rule in rules if rule.get("chain") == CHAIN and (seen := _seen(rule))]


def add_masquerade(nft: Nft, wanted: Masquerade) -> None:
    """CONFLICT where its source has a rule."""
    _check_comment(wanted)
    if any(seen.thing.source == wanted.source for seen in list_masquerades(nft)):
        raise CaasError(Code.CONFLICT, f"create masquerade {wanted.name}: {wanted.source} has a rule already")
    chain = {"family": FAMILY, "table": TABLE, "name": CHAIN, "type": "nat", "hook": "postrouting", "prio": 100}
    commands: list[Command] = [
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},
        {"add": {"chain": chain | {"policy": "accept"}}},
        {"add": {"rule": _rule(wanted)}},
    ]
    nft.change(commands, what=f"create masquerade {wanted.name}")


def replace_masquerade(nft: Nft, before: Masquerade, after: Masquerade) -> None:
    """NOT_FOUND where *before* has no rule."""
    _check_comment(after)
    for seen in list_masquerades(nft):
        if seen.thing.source == before.source:
            command = {"replace": {"rule": _rule(after) | {"handle": seen.handle}}}
            nft.change([command], what=f"change masquerade {after.name}")
            return
    raise CaasError(Code.NOT_FOUND, f"change masquerade {before.name}: there is no such rule")


def delete_masquerade(nft: Nft, unwanted: Masquerade) -> None:
    """Already gone is success."""
    listed = nft.list_table(FAMILY, TABLE)
    rules = [each["rule"] for each in listed if "rule" in each]
    ours = [rule for rule in rules if (seen := _seen(rule)) and seen.thing.source == unwanted.source]
    commands: list[Command] = [{"delete": {"rule": _PLACE | {"handle": rule["handle"]}}} for rule in ours]
    if listed and len(ours) == len(rules):
        commands = [{"delete": {"table": {"family": FAMILY, "name": TABLE}}}]
    if commands:
        nft.change(commands, what=f"delete masquerade {unwanted.name}")


def _check_comment(wanted: Masquerade) -> None:
    if len(str(wanted.mark).encode()) > COMMENT_MAX:
        raise invalid(f"masquerade {wanted.name}: its mark {wanted.mark} is longer than {COMMENT_MAX} bytes")


def _rule(wanted: Masquerade) -> dict[str, Any]:
    matches = [_match("==", "saddr", wanted.source), *(_match("!=", "daddr", each) for each in wanted.exempt)]
    # Fully random: two containers behind one address must not guess, or take, each other's source ports.
    return _PLACE | {"comment": str(wanted.mark), "expr": [*matches, {"masquerade": {"flags": "fully-random"}}]}


def _match(operator: str, field: str, network: ipaddress.IPv4Network) -> dict[str, Any]:
    prefix = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    right = str(network.network_address) if network.prefixlen == 32 else prefix
    return {"match": {"op": operator, "left": {"payload": {"protocol": "ip", "field": field}}, "right": right}}


def _seen(rule: dict[str, Any]) -> SeenMasquerade | None:
    mark = parse_mark(rule.get("comment"))
    if mark is None:
        return None
    sources: list[ipaddress.IPv4Network] = []
    exempt: list[ipaddress.IPv4Network] = []
    for expression in rule["expr"]:
        if match := expression.get("match"):
            field = match["left"]["payload"]["field"]
            (sources if field == "saddr" else exempt).append(_network(match["right"]))
    if len(sources) != 1:
        return None  # our comment on a rule that we never made
    return SeenMasquerade(Masquerade(source=sources[0], exempt=tuple(exempt), mark=mark), rule["handle"])


def _network(right: Any) -> ipaddress.IPv4Network:
    if isinstance(right, str):
        return ipaddress.IPv4Network(right)
    return ipaddress.IPv4Network(f"{right['prefix']['addr']}/{right['prefix']['len']}")
