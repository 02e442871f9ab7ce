"""What the bench reads: the lines of `caas up`, smaps_rollup, and the large file it writes."""

from __future__ import annotations

import pytest

from coordinator.cli.progress import PlainDisplay
from coordinator.config import load_bytes
from proto import coordinator_pb2 as pb
from tests.bench import compiling
from tests.bench.memory import read_pss
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
