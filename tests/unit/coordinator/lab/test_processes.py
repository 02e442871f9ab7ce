"""Processes: told apart by pid and start time, ended together, never somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.lab import processes
from coordinator.lab.places import Places
from coordinator.lab.processes import Process, find_process, last_lines, marked, running, stop

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr("coordinator.lab.places.LABS", tmp_path)
    return Places("unit-lab")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, processes.VARIABLE: "unit-lab/caas-agent.host1"})
    yield child
    child.kill()
    child.wait()


def the(child: subprocess.Popen[bytes]) -> Process:
    found = find_process(child.pid)
    assert found is not None
    return found


def test_a_process_is_itself_and_no_other_with_its_pid(sleeper: subprocess.Popen[bytes]) -> None:
    process = the(sleeper)
    assert process.is_alive()
    assert not Process(process.pid, process.start + 1).is_alive()


def test_a_recycled_pid_is_not_killed(sleeper: subprocess.Popen[bytes]) -> None:
    earlier = Process(sleeper.pid, the(sleeper).start - 1)
    assert stop([earlier]) == ()
    assert sleeper.poll() is None


def test_a_name_with_blanks_and_parentheses_is_read_right(tmp_path: Path) -> None:
    command = tmp_path / "a) S 1 (b"
    command.symlink_to("/usr/bin/sleep")
    child = subprocess.Popen([str(command), "60"])
    try:
        process = the(child)
        assert process.is_alive()
        ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        assert 0 <= ticks - process.start < 60 * os.sysconf("SC_CLK_TCK")
    finally:
        child.kill()
        child.wait()


def test_stop_asks_first(sleeper: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    assert stop([the(sleeper)]) == ()
    assert find_process(sleeper.pid) is None
    assert time.monotonic() - began < processes.TERM_WAIT / 2


def test_stop_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERM_WAIT", 0.3)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    process = the(child)
    assert stop([process]) == ()
    assert not process.is_alive()
    child.stdout.close()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    process = the(child)
    assert process.is_alive()
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive()
    assert find_process(child.pid) is None
    child.wait()


def test_what_was_started_for_a_lab_is_found_by_its_environment(
    sleeper: subprocess.Popen[bytes], places: Places
) -> None:
    assert marked(places) == {the(sleeper): "caas-agent.host1"}
    assert marked(Places("unit")) == {}


def test_running_believes_no_file_alone(sleeper: subprocess.Popen[bytes], places: Places) -> None:
    places.pids.mkdir(parents=True)
    process = the(sleeper)
    for written, seen in (
        ({"pid": process.pid, "start": process.start}, process),
        ({"pid": process.pid, "start": process.start - 5}, None),
        ({"pid": process.pid}, None),
        ([], None),
    ):
        (places.pids / "x").write_text(json.dumps(written))
        assert running("x", places) == seen
    (places.pids / "x").write_text("{")
    assert running("x", places) is None
    assert running("y", places) is None


def test_the_end_of_a_log(places: Places) -> None:
    assert last_lines("x", places) == ""
    places.log.mkdir(parents=True)
    (places.log / "x.log").write_text("".join(f"line {n}\n" for n in range(5000)))
    assert last_lines("x", places, count=2) == "\n  | line 4998\n  | line 4999"
