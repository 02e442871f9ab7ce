"""The matrix of `caas verify`."""

from __future__ import annotations

from coordinator.reach import make_matrix


def test_rows_ask_and_columns_answer() -> None:
    pairs = [
        {"from": "a", "to": "bb", "ok": True},
        {"from": "bb", "to": "a", "ok": False},
        {"from": "a", "to": "gateway", "ok": True},
    ]
    assert make_matrix(pairs).splitlines() == [
        "              1  2  3",
        "  1  a           .  .",
        "  2  bb       x",
        "  3  gateway",
    ]


def test_nothing_to_try() -> None:
    assert make_matrix([]).strip() == ""


def test_many_are_counted_by_host() -> None:
    names = {f"c{number}": f"host{number % 2 + 1}" for number in range(20)}
    pairs = [
        {"from": one, "to": other, "ok": (one, other) != ("c0", "c1")}
        for one in names
        for other in names
        if one != other
    ]
    assert make_matrix([*pairs, {"from": "c0", "to": "gateway", "ok": True}], names).splitlines() == [
        "FROM   TO       PAIRS  WELL",
        "host1  host2      100  99  x",
        "host1  host1       90  90",
        "host2  host1      100  100",
        "host2  host2       90  90",
        "host1  gateway      1  1",
    ]


def test_few_are_named_also_where_their_hosts_are_known() -> None:
    pairs = [{"from": "a", "to": "b", "ok": True}]
    assert make_matrix(pairs, {"a": "host1", "b": "host2"}) == make_matrix(pairs)
