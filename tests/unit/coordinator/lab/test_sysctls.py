"""Limits of the machine: raised where too low, put back as they were, also after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.lab.sysctls import raise_limits, restore_limits

WANTED = {"fs.inotify.max_user_instances": 1000}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "fs/inotify").mkdir(parents=True)
    (tmp_path / "fs/inotify/max_user_instances").write_text("128\n")
    return tmp_path


def value(proc: Path) -> int:
    return int((proc / "fs/inotify/max_user_instances").read_text())


def test_raised_and_restored(proc: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "labs/sysctls.json"
    assert raise_limits(wanted=WANTED, ledger=ledger, proc=proc) == WANTED
    assert value(proc) == 1000
    assert raise_limits(wanted=WANTED, ledger=ledger, proc=proc) == {}
    assert restore_limits(ledger=ledger, proc=proc) == {"fs.inotify.max_user_instances": 128}
    assert value(proc) == 128
    assert not ledger.exists()


def test_enough_is_left_alone(proc: Path, tmp_path: Path) -> None:
    (proc / "fs/inotify/max_user_instances").write_text("5000\n")
    assert raise_limits(wanted=WANTED, ledger=tmp_path / "l.json", proc=proc) == {}
    assert restore_limits(ledger=tmp_path / "l.json", proc=proc) == {}
    assert value(proc) == 5000


def test_what_somebody_else_set_meanwhile_stays(proc: Path, tmp_path: Path) -> None:
    raise_limits(wanted=WANTED, ledger=tmp_path / "l.json", proc=proc)
    (proc / "fs/inotify/max_user_instances").write_text("4000\n")
    assert restore_limits(ledger=tmp_path / "l.json", proc=proc) == {}
    assert value(proc) == 4000


def test_written_down_before_it_is_done(proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / "l.json"

    def fail(*_: object) -> None:
        assert ledger.exists(), "an interruption here would lose what was there before"
        raise KeyboardInterrupt

    monkeypatch.setattr("coordinator.lab.sysctls._write", fail)
    with pytest.raises(KeyboardInterrupt):
        raise_limits(wanted=WANTED, ledger=ledger, proc=proc)
    monkeypatch.undo()
    assert restore_limits(ledger=ledger, proc=proc) == {}, "it was never raised"
    assert value(proc) == 128


def test_after_a_reboot_the_value_found_is_the_one_restored(proc: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "l.json"
    raise_limits(wanted=WANTED, ledger=ledger, proc=proc)
    (proc / "fs/inotify/max_user_instances").write_text("256\n")  # what the machine booted with this time
    raise_limits(wanted=WANTED, ledger=ledger, proc=proc)
    restore_limits(ledger=ledger, proc=proc)
    assert value(proc) == 256
