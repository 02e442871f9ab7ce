"""TCP ports of this host that something else has: who listens there, and which rules of others translate them.

Rules are read as nft lists them, iptables' too where nftables holds them. Not seen are those of iptables-legacy,
ports that iptables' own matches name (multiport), and rules that translate whatever port an address is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from agent.kernel.inside import run_inside
from agent.kernel.nft import Nft
from proto.marks import parse_mark

#: proc(5): of the network namespace of the thread that looks.
_SOCKETS = (Path("/proc/thread-self/net/tcp"), Path("/proc/thread-self/net/tcp6"))
_LISTENS = "0A"  # TCP_LISTEN (net/tcp_states.h), in hexadecimal
_PORT = ({"protocol": "tcp", "field": "dport"}, {"protocol": "th", "field": "dport"})
_TRANSLATES = frozenset({"dnat", "redirect"})
Place = tuple[str, str, str]  # family, table, name


def list_taken_ports(nft: Nft, *, netns: str | None) -> list[int]:
    """Ascending. Raises CaasError where nft does, OSError where /proc cannot be read."""
    texts = run_inside(netns, lambda: [path.read_text() for path in _SOCKETS if path.exists()])
    listening = {port for text in texts for port in read_listening(text)}
    return sorted(listening | set(find_translated(nft.list_everything())))


def read_listening(text: str) -> Iterator[int]:
    """The ports of /proc/net/tcp or tcp6 where somebody listens on an address that IPv4 packets from outside reach."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].rpartition(":")
        if fields[3] == _LISTENS and (ip := read_address(address)) and not ip.is_loopback:
            yield int(port, 16)


def read_address(text: str) -> IPv4Address | None:
    """The address in a line of net/tcp: words of 32 bits in the machine's order.

    `::` takes IPv4 too, mostly; None for other addresses of IPv6.
    """
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    if len(packed) == 4:
        return IPv4Address(packed)
    wide = IPv6Address(packed)
    return wide.ipv4_mapped or (IPv4Address(0) if wide.is_unspecified else None)


def find_translated(ruleset: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """The TCP ports that rules of *ruleset* without our mark translate, themselves or in the chain that they lead to.

    *ruleset* is libnftables-json(5)'s.
    """
    rules = [each["rule"] for each in ruleset if "rule" in each and not parse_mark(each["rule"].get("comment"))]
    translating = _find_translating(rules)
    sets = {
        _place(each[kind], each[kind]["name"]): each[kind]
        for each in ruleset
        for kind in ("set", "map")
        if kind in each
    }
    for rule in rules:
        if _translates(rule) or any(target in translating for target in _targets(rule)):
            for key, values in _comparisons(rule):
                if isinstance(values, str) and values.startswith("@"):
                    values = {"set": sets.get(_place(rule, values[1:]), {}).get("elem", ())}
                yield from _read_ports(key, values)


def _find_translating(rules: Iterable[Mapping[str, Any]]) -> set[Place]:
    """The chains with a rule that translates, or that leads to one."""
    found = {_place(rule, rule["chain"]) for rule in rules if _translates(rule)}
    while more := {
        place
        for rule in rules
        if (place := _place(rule, rule["chain"])) not in found and any(target in found for target in _targets(rule))
    }:
        found |= more
    return found


def _place(thing: Mapping[str, Any], name: str) -> Place:
    return (thing["family"], thing["table"], name)


def _translates(rule: Mapping[str, Any]) -> bool:
    def does(each: Mapping[str, Any]) -> bool:
        # What iptables has no word of nft's for.
        return bool(_TRANSLATES & each.keys()) or (each.get("xt") or {}).get("name") in ("DNAT", "REDIRECT")

    return any(map(does, rule["expr"]))


def _targets(rule: Mapping[str, Any]) -> Iterator[Place]:
    """The chains that it leads to."""
    for key, value in _walk(rule["expr"]):
        if key in ("jump", "goto"):
            yield _place(rule, value["target"])


def _comparisons(rule: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """What is compared, or looked up in a map, and with what."""
    for key, value in _walk(rule["expr"]):
        if key == "match" and value["op"] in ("==", "in"):
            yield value["left"], value["right"]
        elif key in ("map", "vmap"):
            yield value["key"], value["data"]


def _walk(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(tree, list):
        for each in tree:
            yield from _walk(each)


def _read_ports(key: Mapping[str, Any], values: Any) -> Iterator[int]:
    """The ports among *values*, which are of the form that *key* says."""
    parts = key.get("concat", [key])
    at = next((index for index, part in enumerate(parts) if part.get("payload") in _PORT), None)
    if at is None:
        return
    for value in values["set"] if isinstance(values, dict) and "set" in values else [values]:
        value = value[0] if isinstance(value, list) else value  # of a map: what is looked up
        value = value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value
        value = value["concat"][at] if isinstance(value, dict) and "concat" in value else value
        if isinstance(value, int):
            yield value
        elif isinstance(value, dict) and "range" in value:
            first, last = value["range"]
            yield from range(first, last + 1)
