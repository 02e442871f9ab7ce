"""What others' forward chains drop, from listings as nft 1.0.6 prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent.kernel.forward_chains import Chain, Way, find_dropped

OUT, BACK = Way("lxcbr0", "eth0"), Way("eth0", "lxcbr0")
ACCEPT, DROP = {"accept": None}, {"drop": None}


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def chain(*rules: list[dict[str, Any]], name: str = "FORWARD", **more: object) -> list[Mapping[str, Any]]:
    place = {"family": "ip", "table": "filter"}
    made = [{"rule": place | {"chain": name, "handle": 1, "expr": [*each]}} for each in rules]
    return [{"chain": place | {"name": name} | more}, *made]


def forward(*rules: list[dict[str, Any]], policy: str = "drop") -> list[Mapping[str, Any]]:
    return chain(*rules, type="filter", hook="forward", prio=0, policy=policy)


def dropped(ruleset: list[Mapping[str, Any]]) -> list[Way]:
    return find_dropped([{"metainfo": {}}, *ruleset], [OUT, BACK]).get(Chain("ip", "filter", "FORWARD"), [])


STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
NEW = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": {"set": ["established", "new"]}}}
SOURCE = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.1"}}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}
CASES: dict[str, tuple[list[Mapping[str, Any]], list[Way]]] = {
    "policy accept": (forward(policy="accept"), []),
    "policy drop": (forward(), [OUT, BACK]),
    "only answers": (forward([STATE, COUNTER, ACCEPT]), [OUT, BACK]),
    "new ones": (forward([NEW, ACCEPT]), []),
    "by its name": (forward([meta("iifname", "lxcbr0"), COUNTER, ACCEPT]), [BACK]),
    "by its number": (forward([meta("iif", "lxcbr0"), ACCEPT], [meta("oif", "lxcbr0"), ACCEPT]), []),
    "by names that begin so": (forward([meta("oifname", "lxcbr*"), ACCEPT]), [OUT]),
    "by one of several": (forward([meta("iifname", {"set": ["docker0", "lxcbr0"]}), ACCEPT]), [BACK]),
    "by a set that is not known": (forward([meta("iifname", "@links"), ACCEPT]), [OUT, BACK]),
    "by another": (forward([meta("iifname", "lxcbr00"), ACCEPT]), [OUT, BACK]),
    "all but one": (forward([meta("iifname", "eth0", "!="), ACCEPT]), [BACK]),
    "some sources": (forward([SOURCE, ACCEPT]), [OUT, BACK]),
    "some are dropped": (forward([SOURCE, DROP], policy="accept"), []),
    "a link is dropped": (forward([meta("iifname", "eth0"), DROP], [ACCEPT]), [BACK]),
    "the rest is rejected": (forward([STATE, ACCEPT], [{"reject": None}], policy="accept"), [OUT, BACK]),
    "iptables rejects": (forward([{"xt": {"type": "target", "name": "REJECT"}}], policy="accept"), [OUT, BACK]),
    "iptables asks": (forward([{"xt": {"type": "match", "name": "conntrack"}}, ACCEPT]), [OUT, BACK]),
    "order": (forward([meta("iifname", "eth0"), ACCEPT], [meta("iifname", "eth0"), DROP]), [OUT]),
    "jump": (
        forward([{"jump": {"target": "USER"}}]) + chain([meta("oifname", "eth0"), ACCEPT], name="USER"),
        [BACK],
    ),
    "return": (
        forward([{"jump": {"target": "USER"}}], [ACCEPT]) + chain([{"return": None}], [DROP], name="USER"),
        [],
    ),
    "goto": (forward([{"goto": {"target": "USER"}}], [ACCEPT]) + chain(name="USER"), [OUT, BACK]),
    "a circle": (forward([{"jump": {"target": "FORWARD"}}]), [OUT, BACK]),
    "input": (chain(type="filter", hook="input", prio=0, policy="drop"), []),
    "no base chain": (chain([DROP]), []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_dropped(name: str) -> None:
    ruleset, ways = CASES[name]
    assert dropped(ruleset) == ways


def test_our_own_tables_and_other_families_are_left_out() -> None:
    (item,) = forward()
    theirs = {**item["chain"], "family": "inet"}
    ours, bridged = {**item["chain"], "table": "caas_ipip"}, {**item["chain"], "family": "bridge"}
    found = find_dropped([{"chain": each} for each in (theirs, ours, bridged)], [OUT])
    assert found == {Chain("inet", "filter", "FORWARD"): [OUT]}
