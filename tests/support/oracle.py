"""What a namespace has, told by `ip -json`, `tc -json` and `nft -j`: it shares no code with what it judges."""

from __future__ import annotations

import json
from typing import Any

from tests.support.netns import run

#: Carrier comes and goes with ports.
_CARRIER = frozenset({"LOWER_UP", "NO-CARRIER"})
_VOLATILE = frozenset({"linkinfo", "stats64", "stats", "gc_timer", "operstate", "ifi_flags"})


def links(netns: str) -> dict[str, dict[str, Any]]:
    """Every link by name, as `ip -details -json link` shows it."""
    return {each["ifname"]: each for each in json.loads(run("ip -details -json link", netns=netns))}


def addresses(netns: str, link: str) -> list[str]:
    """The link's addresses, both families, with prefix length."""
    found = json.loads(run(f"ip -json address show dev {link}", netns=netns))
    return [f"{each['local']}/{each['prefixlen']}" for entry in found for each in entry.get("addr_info", ())]


def routes(netns: str, *, table: str = "main") -> list[dict[str, Any]]:
    """IPv4 routes of a table; `protocol` is a number's text or a name."""
    return list(json.loads(run(f"ip -json route show table {table}", netns=netns, check=False) or "[]"))


def rules(netns: str) -> list[dict[str, Any]]:
    return list(json.loads(run("ip -json rule", netns=netns)))


def ruleset(netns: str) -> list[dict[str, Any]]:
    """nft's ruleset, without the note on nft's own version."""
    found = json.loads(run("nft -j list ruleset", netns=netns))["nftables"]
    return [each for each in found if "metainfo" not in each]


def filters(netns: str, link: str) -> str:
    """tc's qdiscs and filters on a link, as text."""
    return "".join(
        run(f"tc {what} show dev {link} {where}", netns=netns, check=False)
        for what, where in (("qdisc", ""), ("filter", "ingress"), ("filter", "egress"))
    )


#: A link may go while it is asked about.
_EVERYTHING = """ip -details -json link; ip -json address; ip -json route show table all; ip -json rule
nft -j list ruleset; tc qdisc; for d in $(ls /proc/sys/net/ipv4/conf); do
case $d in all|default) ;; *)
{ tc filter show dev $d ingress && tc filter show dev $d egress; } || test ! -e /proc/sys/net/ipv4/conf/$d || exit 1
esac; done"""


def snapshot(netns: str) -> dict[str, Any]:
    """Everything of a namespace that the door could change, comparable for equality. One shell: guests are slow."""
    text = run(_EVERYTHING, netns=netns)
    parts, decoder = [], json.JSONDecoder()
    while (text := text.lstrip()).startswith(("[", "{")):
        part, end = decoder.raw_decode(text)
        parts.append(part)
        text = text[end:]
    found_links, found_addresses, found_routes, found_rules, found_nft = parts
    plain = {}
    for link in found_links:
        kept = {key: value for key, value in link.items() if key not in _VOLATILE and "so_max" not in key}
        plain[link["ifname"]] = kept | {"flags": sorted(set(link["flags"]) - _CARRIER)}
    return {
        "links": plain,
        "filters": text,
        "addresses": {each["ifname"]: [a["local"] for a in each["addr_info"]] for each in found_addresses},
        "routes": found_routes,
        "rules": found_rules,
        "nft": [each for each in found_nft["nftables"] if "metainfo" not in each],
    }
