"""Locks: one holder, gone with it, no file left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from coordinator.lab.locks import locked
from proto.errors import CaasError, Code


def test_a_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    with locked(tmp_path / "x.lock", what="lab x"):
        with pytest.raises(CaasError, match=rf"lab x is being changed .*pid {os.getpid()}") as caught:
            with locked(tmp_path / "x.lock", what="lab x"):
                pytest.fail("two hold one lock")
        assert caught.value.code is Code.BUSY
        assert (tmp_path / "x.lock").exists()
    assert not (tmp_path / "x.lock").exists()
    with locked(tmp_path / "x.lock", what="lab x"):
        pass


def _hold(path: Path, held: object) -> None:
    with locked(path, what="it"):
        held.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "x.lock", held))
    holder.start()
    assert held.wait(20)
    with pytest.raises(CaasError), locked(tmp_path / "x.lock", what="it"):
        pytest.fail("two hold one lock")
    holder.kill()
    holder.join()
    with locked(tmp_path / "x.lock", what="it"):
        assert (tmp_path / "x.lock").exists()


def test_many_waiters_never_meet(tmp_path: Path) -> None:
    inside, most, failures = [], [], []

    def work() -> None:
        try:
            for _ in range(20):
                with locked(tmp_path / "deep/x.lock", what="it", wait=30):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(most) == {1}
    assert len(most) == 80
