"""Which chains would drop what this host forwards: a packet of which only its way is known is led through them. Pure.

A rule that asks for more than the way and the connection's state is passed over, whatever it would say: the way must
be open to all that takes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACCEPT, DROP = "accept", "drop"
#: What bridged and routed IPv4 meets, with bridge-nf-call-iptables and without.
_FAMILIES = frozenset({"ip", "inet"})
_DEPTH_MAX = 16  # NFT_JUMP_STACK_SIZE (linux/netfilter/nf_tables.h)


@dataclass(frozen=True, slots=True)
class Way:
    """A new connection's first packet comes in by one link and leaves by another, or by another port of the same."""

    into: str
    out: str

    def __str__(self) -> str:
        return f"from {self.into} to {self.out}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain, as nft names it."""

    family: str
    table: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


def find_dropped(ruleset: Sequence[Mapping[str, Any]], ways: Iterable[Way]) -> dict[Chain, list[Way]]:
    """The chains at the forward hook that drop some of *ways*, without those of our own tables, with what they drop.

    *ruleset* is libnftables-json(5)'s.
    """
    rules: dict[Chain, list[Mapping[str, Any]]] = {}
    for rule in (each["rule"] for each in ruleset if "rule" in each):
        rules.setdefault(Chain(rule["family"], rule["table"], rule["chain"]), []).append(rule)
    found: dict[Chain, list[Way]] = {}
    for chain in (each["chain"] for each in ruleset if "chain" in each):
        if chain.get("hook") != "forward" or chain["family"] not in _FAMILIES or chain["table"].startswith("caas"):
            continue
        place = Chain(chain["family"], chain["table"], chain["name"])
        for way in ways:
            if (_verdict(rules, place, way) or chain.get("policy", ACCEPT)) == DROP:
                found.setdefault(place, []).append(way)
    return found


def _verdict(rules: Mapping[Chain, Sequence[Mapping[str, Any]]], place: Chain, way: Way, depth: int = 0) -> str:
    """What the chain's rules say of a packet on *way*: ACCEPT, DROP, or "" where they come to no end."""
    for rule in rules.get(place, ()) if depth < _DEPTH_MAX else ():
        for expression in rule["expr"]:
            ((key, value),) = expression.items()
            if key == "match" and not _is_met(value, way):
                break
            if key == "xt" and (value or {}).get("type") != "target":
                break
            if key == "accept":
                return ACCEPT
            if key in ("drop", "reject") or (key == "xt" and value.get("name") == "REJECT"):
                return DROP
            if key == "return":
                return ""
            if key in ("jump", "goto"):
                said = _verdict(rules, Chain(place.family, place.table, value["target"]), way, depth + 1)
                if said or key == "goto":
                    return said
    return ""


def _is_met(match: Mapping[str, Any], way: Way) -> bool:
    left, right = match["left"], match["right"]
    if "meta" in left:
        have = {"iifname": way.into, "iif": way.into, "oifname": way.out, "oif": way.out}.get(left["meta"]["key"])
    else:
        have = "new" if left == {"ct": {"key": "state"}} else None
    if have is None or match["op"] not in ("==", "in", "!="):
        return False
    listed = right["set"] if isinstance(right, dict) and "set" in right else right
    names = listed if isinstance(listed, list) else [listed]
    if not all(isinstance(each, str) and not each.startswith("@") for each in names):
        return False
    is_one = any(have.startswith(each[:-1]) if each.endswith("*") else have == each for each in names)
    return not is_one if match["op"] == "!=" else is_one
