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
