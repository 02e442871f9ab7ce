"""The guest's processes: what they say is kept, and they end with the run, also when it is interrupted."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from tests.support import guest
from tests.support.netns import poll_until

Play = Callable[[str], guest.Guest]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """A guest whose command is a shell's."""

    def start(script: str) -> guest.Guest:
        monkeypatch.setattr(guest, "_command", lambda runs, machine: ["sh", "-c", script])
        return guest.Guest({}, log=tmp_path / "build" / "guest.log")

    return start


def runs(pid: int) -> bool:
    """Whether it does anything: what has ended may wait for its parent."""
    try:
        return re.search(r"^State:\s+[^ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_all_that_it_says_is_heard(play: Play) -> None:
    assert play("echo one; echo two >&2").said() == "one\ntwo\n"


@pytest.mark.parametrize("status", [0, 1])
def test_tests_that_are_asked_for_say_how_they_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    script = f"echo boot; echo === guest: 6.1; echo === asked: status {status}"
    monkeypatch.setattr(guest, "ROOT", tmp_path)
    monkeypatch.setattr(guest, "_command", lambda runs, machine: ["sh", "-c", script])
    assert guest.main(["tests/netns"]) == status
    assert capsys.readouterr().out.startswith("=== guest: 6.1\n")


def test_one_that_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(runs: object, machine: object) -> list[str]:
        raise RuntimeError("vng is not there: make venv")

    monkeypatch.setattr(guest, "_command", refuse)
    with pytest.raises(AssertionError, match="no stock kernel: vng is not there: make venv"):
        guest.Guest({}, log=tmp_path / "guest.log").said()


def test_who_is_interrupted_while_waiting_ends_its_processes(play: Play, tmp_path: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    pid = tmp_path / "pid"
    started = play(f"sleep 600 & echo $$ $! > {pid}; wait")
    words = poll_until(lambda: pid.exists() and pid.read_text().split(), deadline=10)
    shell, child = map(int, words or ())
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            started.said()
    finally:
        signal.signal(signal.SIGALRM, before)
        assert runs(child)
        started.stop()
    assert not runs(shell), "whoever has stopped it may end, and its threads with it"
    poll_until(lambda: not runs(child), deadline=5)


def test_arguments_with_blanks_are_one_word_each_in_the_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guest, "prepare", lambda: tmp_path / "vmlinuz")
    monkeypatch.setattr(shutil, "which", lambda tool, path: tool)
    argv = guest._command({"one": ["pytest", "-k", "a or b"]}, guest.Machine(cpus=1, qemu="-icount shift=2"))
    assert argv[argv.index("--cpus") + 1] == "1"
    (options,) = (word for word in argv if word.startswith("--qemu-opts="))
    assert options.endswith(" -icount shift=2")
    assert shlex.split(argv[-1])[-2:] == ["one", "pytest -k 'a or b'"]
