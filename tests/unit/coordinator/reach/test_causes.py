"""Which of several possible causes is named: two hosts, a container on each, a tunnel between."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from coordinator.compiling import compile_cluster
from coordinator.config import load_bytes
from coordinator.reach import Causes, judge, list_problems, targets_of
from coordinator.reach.judge import Pair
from coordinator.reach.report import HostReport, Passed, Report, make_unasked
from proto.model import Cause, Finding

FILE = b"""\
name: demo
hosts:
  host1: {address: 192.0.2.1, trunk: eth1}
  host2: {address: 192.0.2.2, trunk: eth1}
networks:
  lan: {subnet: 10.9.1.0/24, overlay: ipip}
containers:
  a: {host: host1, network: lan, roles: [controller, compute]}
  b: {host: host2, network: lan, roles: [compute]}
"""
A, B, GATEWAYS = "10.9.1.2", "10.9.2.2", {"a": "10.9.1.1", "b": "10.9.2.1"}
DESIRED = compile_cluster(load_bytes(FILE, file="demo.yaml")).hosts
TARGETS = targets_of(DESIRED)
WELL = {"reached": True, "full": True, "seconds": 0.001}
NARROW = {"reached": True, "full": False, "seconds": 0.001}
FACTS = {"up": True, "mtu": 1480, "addresses": [], "routes": ["0.0.0.0/0"]}
FORWARD = Finding(cause=Cause.FORWARD, object="forward", text="it drops")
#: Of packets from a to b by the tunnel of their hosts.
QUESTION = ("192.0.2.1", "192.0.2.2", A, B, False)
ANSWER = ("192.0.2.2", "192.0.2.1", B, A, True)


def make_reports(answer: dict[str, Any] | None, *, heard: dict[str, Any] | None = None) -> dict[str, HostReport]:
    """a asks b and gets *answer*; b heard *heard* of a. All else is well."""
    said = {
        "a": Report(
            target=TARGETS["a"],
            answered={GATEWAYS["a"]: WELL, **({B: answer} if answer else {})},
            heard={B: {"source": B, "full": True, "small": True}},
            facts=FACTS,
        ),
        "b": Report(
            target=TARGETS["b"],
            answered={GATEWAYS["b"]: WELL, A: WELL},
            heard={A: heard} if heard else {},
            facts=FACTS,
        ),
    }
    return {host: HostReport(host=host, reports={name: said[name]}) for host, name in (("host1", "a"), ("host2", "b"))}


def explain(reports: dict[str, HostReport], **findings: list[Finding]) -> dict[tuple[str, str], tuple[Cause, str]]:
    causes = Causes(DESIRED, reports, findings)
    verdicts = {(pair.source, pair.target): causes.explain(pair) for pair in judge(reports) if not pair.ok}
    return {ends: (verdict.cause, verdict.at) for ends, verdict in verdicts.items()}


def with_seen(hosts: dict[str, HostReport], host: str, /, **fields: Any) -> None:
    hosts[host] = replace(hosts[host], **fields)


def passed(*, sent: int = 0, received: int = 0, size: int = 1500) -> Passed:
    return Passed(sent=sent, received=received, sent_size=size * bool(sent), received_size=size * bool(received))


def test_a_healthy_network_has_none_whatever_its_hosts_find() -> None:
    reports = make_reports(WELL, heard={"source": A, "full": True, "small": True})
    assert explain(reports, host1=[FORWARD], host2=[FORWARD]) == {}
    assert all(pair.ok for pair in judge(reports))


def test_what_was_sent_and_not_received_outweighs_a_filter() -> None:
    reports = make_reports(None)
    with_seen(reports, "host1", outer={QUESTION: passed(sent=4)})
    assert explain(reports, host1=[FORWARD], host2=[FORWARD]) == {("a", "b"): (Cause.PROTOCOL_4, "")}


@pytest.mark.parametrize(("host", "seen"), [("host1", {}), ("host2", {"host1": 4, "host2": 4})])
def test_a_filter_is_named_where_the_packets_end(host: str, seen: dict[str, int]) -> None:
    reports = make_reports(None)
    if seen:
        with_seen(reports, "host1", outer={QUESTION: passed(sent=4)})
        with_seen(reports, "host2", outer={QUESTION: passed(received=4)})
    assert explain(reports, host1=[FORWARD], host2=[FORWARD]) == {("a", "b"): (Cause.FORWARD, host)}


def test_an_answer_is_looked_for_on_its_own_way() -> None:
    reports = make_reports(None, heard={"source": A, "full": True, "small": True})
    with_seen(reports, "host1", outer={QUESTION: passed(sent=4)})
    with_seen(reports, "host2", outer={QUESTION: passed(received=4), ANSWER: passed(sent=4)})
    assert explain(reports) == {("a", "b"): (Cause.PROTOCOL_4, "")}


def test_what_can_pass_nowhere_comes_before_what_follows_from_it() -> None:
    far = (IPv4Network("10.9.2.0/24"),)
    down = Finding(cause=Cause.LINK_DOWN, object="t", text="t is down", far=far)
    lost = Finding(cause=Cause.NO_ROUTE, object="10.9.2.0/24", text="there is no route", far=far)
    tunnel = Finding(cause=Cause.TUNNEL, object="t", text="not whole", far=far)
    reports = make_reports(None)
    assert explain(reports, host1=[tunnel, lost, down]) == {("a", "b"): (Cause.LINK_DOWN, "host1")}
    assert explain(reports, host1=[tunnel, lost]) == {("a", "b"): (Cause.NO_ROUTE, "host1")}


@pytest.mark.parametrize(
    "elsewhere",
    [
        Finding(cause=Cause.NO_ROUTE, object="x", text="x", far=(IPv4Network("10.9.3.0/24"),)),
        Finding(cause=Cause.LINK_DOWN, object="x", text="x", near=("other",)),
        Finding(cause=Cause.MTU, object="x", text="x"),
    ],
)
def test_findings_about_others_explain_nothing(elsewhere: Finding) -> None:
    assert explain(make_reports(None), host1=[elsewhere]) == {("a", "b"): (Cause.UNKNOWN, "host1")}


def test_a_count_that_grew_outweighs_a_filter() -> None:
    reports = make_reports(None)
    with_seen(reports, "host1", reverse_path=3)
    assert explain(reports, host1=[FORWARD]) == {("a", "b"): (Cause.REVERSE_PATH, "host1")}


@pytest.mark.parametrize(
    ("told", "cause", "at"),
    [
        ({"code": 0, "by": "10.9.1.1", "mtu": 0}, Cause.NO_ROUTE, "host1"),
        ({"code": 13, "by": "10.9.1.1", "mtu": 0}, Cause.FORWARD, "host1"),
        ({"code": 13, "by": "203.0.113.9", "mtu": 0}, Cause.FORWARD, ""),
        ({"code": 1, "by": A, "mtu": 0}, Cause.UNKNOWN, "host1"),  # its own: nobody answered its ARP
    ],
)
def test_what_somebody_on_the_way_said(told: dict[str, Any], cause: Cause, at: str) -> None:
    reports = make_reports(None)
    report = replace(reports["host1"].reports["a"], told={B: told})
    with_seen(reports, "host1", reports={"a": report})
    assert explain(reports) == {("a", "b"): (cause, at)}


def test_an_mtu_hole_is_where_the_large_ones_end() -> None:
    reports = make_reports(NARROW, heard={"source": A, "full": False, "small": True})
    with_seen(reports, "host1", outer={QUESTION: passed(sent=4)})
    with_seen(reports, "host2", outer={QUESTION: passed(received=4, size=100)})
    causes = Causes(DESIRED, reports, {})
    (verdict,) = [causes.explain(pair) for pair in judge(reports) if not pair.ok]
    assert str(verdict).startswith("MTU hole: packets of 1500 bytes do not pass from host1 (192.0.2.1) to host2")


@pytest.mark.parametrize(("is_away", "cause"), [(True, Cause.AGENT_DOWN), (False, Cause.UNKNOWN)])
def test_a_host_that_says_nothing(is_away: bool, cause: Cause) -> None:
    reports = make_reports(WELL)
    reports["host2"] = make_unasked("host2", [TARGETS["b"]], "host2: no answer", is_away=is_away)
    assert explain(reports) == dict.fromkeys([("b", "a"), ("b", "gateway")], (cause, "host2"))


@pytest.mark.parametrize(
    ("word", "cause"),
    [("ENETUNREACH", Cause.NO_ROUTE), ("EPERM", Cause.FILTERED), ("ENETDOWN", Cause.LINK_DOWN), ("E", Cause.UNKNOWN)],
)
def test_what_cannot_be_sent(word: str, cause: Cause) -> None:
    reports = make_reports(None)
    with_seen(reports, "host1", reports={"a": replace(reports["host1"].reports["a"], refused={B: word})})
    assert explain(reports) == {("a", "b"): (cause, "host1")}


def test_every_failed_pair_is_told_with_cause_kind_place_and_hint() -> None:
    reports = make_reports(None)
    with_seen(reports, "host1", outer={QUESTION: passed(sent=4)})
    causes = Causes(DESIRED, reports, {})
    pairs = [pair if pair.ok else replace(pair, verdict=causes.explain(pair)) for pair in judge(reports)]
    (told,) = [pair.to_dict() for pair in pairs if not pair.ok]
    assert told.keys() == {"from", "to", "ok", "reached", "mtu", "seconds", "cause", "kind", "at", "hint"}
    assert told["cause"].startswith(f"{told['kind']}: ")
    assert list_problems(pairs) == [f"a to b: {told['cause']} ({told['hint']})"]


def test_pairs_of_one_cause_are_one_problem() -> None:
    pairs: list[Pair] = [replace(judge(make_reports(None))[0], source=f"c{number}", target="b") for number in range(5)]
    assert list_problems(pairs) == ["c0 to b, c1 to b, c2 to b and 2 more: no answer"]
