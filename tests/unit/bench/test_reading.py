"""What the bench reads: the lines of `caas up`, smaps_rollup, and the large file it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.cli.progress import PlainDisplay
from coordinator.config import load_bytes
from coordinator.journal import Journal
from proto import coordinator_pb2 as pb
from tests.bench import compiling, scale
from tests.bench.critical import Span, describe_path, find_path, read_run
from tests.bench.memory import Container, containers_pss, describe_containers, read_pss
from tests.bench.steps import describe_up, find_phases, find_steps

PROGRESS = """== nova
  .... keystone: API on ubuntu011
  done keystone: API on ubuntu011  (3.8 s)
  done host1: nothing to change
  skip glance: API on ubuntu011
  done verify: a server boots on ubuntu011  (2 min 05 s): late
  done messaging: RabbitMQ on ubuntu011  (36 s)
"""
RESULT = """demo: done, 1 compute up

  PHASE   TIME
  look    0.3 s
  hosts   0.2 s
  nova    1 min 40 s
  in all  1 min 41 s
"""


def test_the_slowest_steps_come_first() -> None:
    assert find_steps(PROGRESS) == [
        (125.0, "verify: a server boots on ubuntu011"),
        (36.0, "messaging: RabbitMQ on ubuntu011"),
        (3.8, "keystone: API on ubuntu011"),
    ]


def test_phases() -> None:
    assert find_phases(RESULT) == [(0.3, "look"), (0.2, "hosts"), (100.0, "nova")]


def test_what_is_told_of_an_up() -> None:
    assert describe_up(PROGRESS, RESULT, count=1) == (
        "look 0.3 s, hosts 0.2 s, nova 100 s",
        "125.0 s  verify: a server boots on ubuntu011",
    )
    assert describe_up("", "demo: nothing to do (0.5 s)") == ()


def test_the_command_line_still_prints_such_lines(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    event = pb.Event(id="x", title="keystone: API on c1", state=pb.Event.DONE, seconds=3.84, phase="nova")
    PlainDisplay(sys.stdout).show(event)
    assert find_steps(capsys.readouterr().out) == [(3.8, "keystone: API on c1")]


def test_pss() -> None:
    assert read_pss("Rss:  5000 kB\nPss:      1234 kB\nPss_Anon: 1000 kB\n") == 1234 * 1024
    with pytest.raises(ValueError, match="no Pss"):
        read_pss("Rss: 1 kB\n")


@pytest.mark.parametrize("kind", list(compiling.NETWORKS))
def test_the_large_file_is_a_cluster_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "HOSTS", 3)
    file = load_bytes(compiling.make_file(kind).encode(), file="large.yaml", name="")
    assert (len(file.hosts), len(file.containers)) == (3, 3 * 64)
    assert file.containers["n0003-64"].host == "host3"


def test_the_critical_path_goes_back_from_what_ended_last() -> None:
    spans = [
        Span(title="database", began=0.0, ended=5.0),
        Span(title="messaging", began=0.0, ended=9.0),
        Span(title="keystone", began=5.0, ended=8.0),
        Span(title="compute", began=9.01, ended=30.0),
        Span(title="glance", began=8.0, ended=12.0),
    ]
    assert [span.title for span in find_path(spans)] == ["messaging", "compute"]
    assert describe_path(spans) == ("   0.0 s  +  9.0 s  messaging", "   9.0 s  + 21.0 s  compute")
    assert find_path([]) == []


def test_the_last_run_is_read_from_the_coordinators_own_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    for run, step in (("1", "old"), ("2", "new"), ("2", "failed"), ("2", "endless")):
        number = journal.begin("many", run, step, f"the {step}")
        if step != "endless":
            journal.end(number, "failed" if step == "failed" else "done")
    journal.end(journal.begin("other", "3", "x", "x"), "done")
    assert [span.title for span in read_run(tmp_path / "journal.db", "many")] == ["the new"]
    journal.close()


@pytest.mark.parametrize("density", ["normal", "high"])
def test_the_cluster_of_many_is_a_cluster_file(density: str) -> None:
    file = load_bytes(scale.make_file(3, density=density).encode(), file="many.yaml", name="")
    assert (list(file.containers), file.density) == (["control", "node001", "node002", "node003"], density)
    assert [spec.host for spec in file.containers.values()] == ["host1", "host2", "host1", "host2"]


def test_what_processes_take_is_shared_out_to_the_containers() -> None:
    containers = [
        Container("a", (("systemd", 2_000_000), ("nova-compute", 90_000_000))),
        Container("b", (("nova-compute", 110_000_000),)),
    ]
    assert [one.total for one in containers] == [92_000_000, 110_000_000]
    assert describe_containers(containers) == (" 100.0 MB  nova-compute", "   1.0 MB  systemd")
    assert describe_containers(containers, count=1) == (" 100.0 MB  nova-compute",)


def test_a_container_is_everything_in_its_pid_namespace_and_must_have_a_compute() -> None:
    with pytest.raises(AssertionError, match="no nova-compute in me"):
        containers_pss({"me": os.getpid()})
