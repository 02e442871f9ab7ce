"""Figures: medians, ratios of pairs, goals, and the shape of bench.json."""

from __future__ import annotations

import json

import pytest

from tests.bench.figure import Figure, Goal, make_document, make_limited, make_paired, make_table, make_unmeasured

KEYS = {"value", "unit", "against", "ratio", "goal", "met", "runs"}


def document(figure: Figure) -> dict[str, object]:
    found = json.loads(make_document([figure]))
    assert set(found) == {figure.name}
    return dict(found[figure.name])


def test_a_limit() -> None:
    figure = make_limited("up-one", [20.0, 18.0, 90.0], unit="s", limit=120, source="issue 2")
    assert document(figure) == {
        "value": 20.0,
        "unit": "s",
        "against": "issue 2: 120 s",
        "ratio": 0.1667,
        "goal": "<= 120 s",
        "met": True,
        "runs": [20.0, 18.0, 90.0],
    }


def test_a_limit_is_met_at_the_limit_and_not_above() -> None:
    assert make_limited("x", [2.0], unit="s", limit=2, source="").met is True
    assert make_limited("x", [2.01], unit="s", limit=2, source="").met is False


def test_the_ratio_is_the_median_of_the_pairs_and_not_of_the_medians() -> None:
    # The machine was slow during the second pair: the medians alone (2 of 3) would say 0.67.
    runs = [(1.0, 1.0), (2.0, 4.0), (3.0, 3.0)]
    figure = make_paired("x", runs, unit="Gb/s", peer="the same, untagged", goal=Goal(ratio_least=0.9))
    assert (figure.value, figure.ratio, figure.met) == (2.0, 1.0, True)
    assert document(figure)["against"] == "the same, untagged: 3 Gb/s"
    assert document(figure)["runs"] == [[1.0, 1.0], [2.0, 4.0], [3.0, 3.0]]


@pytest.mark.parametrize(
    ("goal", "value", "ratio", "met"),
    [
        (Goal(ratio_least=0.9), 1.0, 0.9, True),
        (Goal(ratio_least=0.9), 1.0, 0.89, False),
        (Goal(ratio_most=1.5), 1.0, 1.5, True),
        (Goal(ratio_most=1.5), 1.0, 1.51, False),
        (Goal(ratio_most=1.5, most=20), 21.0, 1.0, False),
        (Goal(ratio_most=1.5, most=20), 20.0, 1.6, False),
        (Goal(ratio_most=1.5, most=20), 20.0, 1.5, True),
    ],
)
def test_goals(goal: Goal, value: float, ratio: float, met: bool) -> None:
    assert goal.is_met(value, ratio) is met


def test_a_goal_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="always met"):
        Goal().is_met(1.0, 1.0)
    with pytest.raises(ValueError, match="no ratio"):
        Goal(ratio_most=1.0).is_met(1.0, None)


def test_goals_in_words() -> None:
    assert Goal(ratio_most=1.5, most=20).text("ms") == "ratio <= 1.5, <= 20 ms"
    assert Goal(ratio_least=0.95).text("Gb/s") == "ratio >= 0.95"


def test_no_run_is_no_figure() -> None:
    with pytest.raises(ValueError, match="up-one: no run"):
        make_limited("up-one", [], unit="s", limit=1, source="")
    with pytest.raises(ValueError, match="x: no run"):
        make_paired("x", [], unit="s", peer="", goal=Goal(ratio_most=1))


def test_what_could_not_be_measured_has_a_reason_and_no_verdict() -> None:
    figure = make_unmeasured("vlan-kernel-tcp", unit="Gb/s", goal=Goal(ratio_least=0.9), why="no 8021q here")
    assert document(figure) == {
        "value": None,
        "unit": "Gb/s",
        "against": "not measured: no 8021q here",
        "ratio": None,
        "goal": "ratio >= 0.9",
        "met": None,
        "runs": [],
    }


def test_details_are_for_people_only() -> None:
    figure = make_limited("x", [1.0], unit="s", limit=2, source="", detail=["0.9 s  keystone"])
    assert set(document(figure)) == KEYS
    assert "x:\n  0.9 s  keystone" in make_table([figure])


def test_the_table_has_a_line_for_each_figure() -> None:
    figures = [
        make_limited("up-one", [130.0], unit="s", limit=120, source="issue 2"),
        make_paired("vlan-pps", [(227400.0, 299000.0)], unit="packets/s", peer="untagged", goal=Goal(ratio_least=0.7)),
        make_unmeasured("away", unit="s", goal=Goal(most=1), why="no kernel"),
    ]
    head, *lines = make_table(figures).splitlines()
    assert head.split() == ["FIGURE", "VALUE", "RATIO", "GOAL", "MET", "AGAINST"]
    assert [line.split()[0] for line in lines] == ["up-one", "vlan-pps", "away"]
    assert "NO" in lines[0].split()
    assert "227400  packets/s  0.7605  ratio >= 0.7  yes  untagged: 299000 packets/s" in lines[1]
    assert "not measured: no kernel" in lines[2]
