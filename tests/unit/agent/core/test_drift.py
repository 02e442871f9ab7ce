"""How long an object is left alone, who is named, what the report keeps: with a clock that stands where it is put."""

from __future__ import annotations

from agent.core.drift import FIRST_WAIT, KEPT, LONGEST_WAIT, MENDS_MAX, WITHIN, Drift, DriftLog, Patience, Touch
from agent.core.drift import find_culprits as culprits


def make_event(name: str = "lxcbr100", *, time: float = 1.0, cluster: str = "demo", by: str = "") -> Drift:
    return Drift(time=time, cluster=cluster, kind="bridge", name=name, found="missing", mended=True, by=by)


def test_an_object_is_mended_at_once_until_somebody_fights() -> None:
    patience, now = Patience(), 100.0
    for _ in range(MENDS_MAX - 1):
        assert patience.wait("bridge", "br", now) == 0
        assert patience.tried("bridge", "br", now) == 0
        now += 1
    waits = []
    for _ in range(8):
        waits.append(patience.tried("bridge", "br", now))
        assert patience.wait("bridge", "br", now) == waits[-1]
        assert patience.wait("bridge", "br", now + waits[-1] - 0.1) > 0
        now += waits[-1]
        assert patience.wait("bridge", "br", now) == 0
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits[-3:] == [LONGEST_WAIT] * 3
    assert patience.wait("bridge", "other", now) == 0


def test_a_fight_that_is_over_is_forgotten() -> None:
    patience = Patience()
    for second in range(MENDS_MAX):
        wait = patience.tried("bridge", "br", float(second))
    assert wait == FIRST_WAIT
    assert patience.tried("bridge", "br", MENDS_MAX + LONGEST_WAIT + WITHIN + 1) == 0


def test_rare_mends_are_no_fight() -> None:
    patience = Patience()
    assert [patience.tried("bridge", "br", 20.0 * number) for number in range(20)] == [0.0] * 20


def test_whoever_touched_such_a_thing_is_named_once() -> None:
    touches = [
        Touch("nft", "firewalld (pid 7)"),
        Touch("link"),
        Touch("link", "ip (pid 8)"),
        Touch("route", "x (pid 9)"),
    ]
    assert culprits("masquerade", touches) == "firewalld (pid 7)"
    assert culprits("address", [*touches, *touches]) == "ip (pid 8)"
    assert culprits("rule", touches) == ""
    assert culprits("vlan", [Touch("filter", "tc (pid 3)"), Touch("lost")]) == "tc (pid 3)"


def test_the_report_is_bounded_by_cluster_and_says_one_thing_once() -> None:
    report = DriftLog()
    for number in range(KEPT + 10):
        report.add(make_event(f"b{number}", cluster="demo" if number % 2 else "blue"))
    assert len(report.last()) == KEPT
    assert {event.cluster for event in report.last("demo")} == {"demo"}
    report = DriftLog()
    report.add(make_event(time=1, by="ip (pid 1)"))
    report.add(make_event("other", time=2, cluster=""))
    report.add(make_event(time=3, by="ip (pid 2)"))
    assert [(event.name, event.time) for event in report.last("demo")] == [("other", 2), ("lxcbr100", 3)]
    report.add(make_event(time=3 + WITHIN))
    assert len(report.last("demo")) == 3
