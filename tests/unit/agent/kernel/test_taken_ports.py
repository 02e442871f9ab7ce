"""Which ports others have, from /proc/net/tcp and nft's listings as they were really printed (nft 1.0.6)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kernel.taken_ports import find_translated, read_listening

#: From a little-endian machine: 127.0.0.1:631, 0.0.0.0:22, 192.168.2.25:8080 listen, 192.168.2.25:80 is connected.
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 1902A8C0:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   3: 1902A8C0:0050 0102A8C0:D431 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 100 0 0 10 0
"""
#: [::1]:631, [::]:1222, [::ffff:192.168.2.25]:1223, [::ffff:127.0.0.1]:1224, [fe80::1]:1225 listen.
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   1: 00000000000000000000000000000000:04C6 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   2: 0000000000000000FFFF00001902A8C0:04C7 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   3: 0000000000000000FFFF00000100007F:04C8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
   4: 000080FE000000000000000001000000:04C9 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000
"""
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
DNAT = {"dnat": {"addr": "10.0.0.1"}}


def test_who_listens() -> None:
    assert list(read_listening(TCP)) == [22, 8080]
    assert list(read_listening(TCP6)) == [1222, 1223]


def match(right: object, *, left: object = DPORT, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def rule(*expressions: dict[str, Any], chain: str = "c", **more: str) -> dict[str, Any]:
    return {"rule": {"family": "ip", "table": "nat", "chain": chain, "handle": 1, "expr": [*expressions], **more}}


SET = {"set": {"family": "ip", "name": "s", "table": "nat", "elem": [101, {"range": [103, 105]}]}}
MAP = {"map": {"family": "ip", "name": "m", "table": "nat", "map": "ipv4_addr", "elem": [[102, "10.0.0.1"]]}}
BOTH = {"concat": [DADDR, DPORT]}
PAIRS = {"set": [[{"concat": ["10.0.0.9", 85]}, {"concat": ["10.0.0.1", 22]}]]}
TRANSLATING: dict[str, tuple[list[dict[str, Any]], list[int]]] = {
    "one": ([rule(match(1222), DNAT)], [1222]),
    "redirect": ([rule(match({"range": [70, 72]}), {"redirect": {"port": 5}})], [70, 71, 72]),
    "iptables": ([rule(match(8080), {"xt": {"type": "target", "name": "DNAT"}})], [8080]),
    "set": ([rule(match({"set": [80, {"range": [90, 91]}]}), DNAT)], [80, 90, 91]),
    "commented": ([rule(match({"set": [{"elem": {"val": 80, "comment": "x"}}]}), DNAT)], [80]),
    "named set": ([SET, rule(match("@s"), DNAT)], [101, 103, 104, 105]),
    "map": ([rule({"dnat": {"addr": {"map": {"key": DPORT, "data": {"set": [[81, "10.0.0.1"]]}}}}})], [81]),
    "named map": ([MAP, rule({"dnat": {"addr": {"map": {"key": DPORT, "data": "@m"}}}})], [102]),
    "map of pairs": ([rule({"dnat": {"family": "ip", "addr": {"map": {"key": BOTH, "data": PAIRS}}}})], [85]),
    "pairs": ([rule(match({"set": [{"concat": ["10.0.0.9", 89]}]}, left=BOTH), DNAT)], [89]),
    "transport": ([rule(match(88, left={"payload": {"protocol": "th", "field": "dport"}}), DNAT)], [88]),
    "chains": (
        [rule(match(87), {"jump": {"target": "x"}}), rule({"goto": {"target": "y"}}, chain="x"), rule(DNAT, chain="y")],
        [87],
    ),
    "chains by port": (
        [rule({"vmap": {"key": DPORT, "data": {"set": [[86, {"jump": {"target": "x"}}]]}}}), rule(DNAT, chain="x")],
        [86],
    ),
    "a circle": ([rule(match(1), {"jump": {"target": "x"}}), rule({"jump": {"target": "c"}}, chain="x")], []),
    "accepted": ([rule(match(80), {"accept": None}), rule(match(81), DNAT)], [81]),
    "UDP": ([rule(match(53, left={"payload": {"protocol": "udp", "field": "dport"}}), DNAT)], []),
    "another's source": ([rule(match(53, left={"payload": {"protocol": "tcp", "field": "sport"}}), DNAT)], []),
    "all but one": ([rule(match(99, op="!="), DNAT)], []),
    "ours": ([rule(match(1222), DNAT, comment="caas:demo:c1"), rule(match(1223), DNAT, comment="theirs")], [1223]),
}


@pytest.mark.parametrize("name", TRANSLATING)
def test_what_is_translated(name: str) -> None:
    ruleset, ports = TRANSLATING[name]
    assert sorted(find_translated([{"metainfo": {}}, *ruleset])) == ports
