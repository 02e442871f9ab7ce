"""Seeds of the simulation, that one replays, and that each invariant can fail (docs/reliability.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import agent.core.apply
import agent.host
import coordinator.compiling.allocate
from agent.host import Host
from coordinator.catching_up import CatchingUp
from coordinator.confirming import Changes
from proto.errors import CaasError
from proto.model import ClusterHost, Cost, HostState
from proto.removals import Removals
from tests.support.simulation.many_hosts import converge
from tests.support.simulation.network import Weather
from tests.support.simulation.run import run_seed

ROOT = Path(__file__).parents[3]
#: 10286: `up` after a `down` that failed on a host was refused there for ever.
KEPT = (10286,)
STORMY = Weather(answer_lost=0.1, twice=0.6)


def play(*options: str) -> subprocess.CompletedProcess[str]:
    """The command that plays seeds, in one process."""
    words = [sys.executable, "-m", "tests.support.simulation", "--jobs", "1", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_every_seed_keeps_every_promise() -> None:
    done = play("--seeds", "60")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", KEPT)
def test_seeds_that_failed_once(seed: int) -> None:
    assert run_seed(seed).violations == []


def test_a_seed_replays() -> None:
    one, other = (play("--first", "7", "--seeds", "2", "--trace") for _ in range(2))
    assert one.returncode == 0, one.stderr
    assert one.stdout.count("\n") > 40
    assert one.stdout.rpartition("simulation:")[0] == other.stdout.rpartition("simulation:")[0]


def _never_check(self: Host, desired: object) -> None:
    return None


def _make_same_mac(cluster: str, container: str, attempt: int) -> str:
    return f"02:00:00:00:00:{attempt:02x}"


def _everything(state: HostState, cluster: str, *, desired: object, others: object) -> HostState:
    return state


def _forgets_only(self: Host, cluster: str, **_: Any) -> Any:
    self._forget(cluster)
    return Cost(generation=0)


def _takes_all(*_: object, **__: object) -> None:
    return None


def _plans_nothing(*_: object, **__: object) -> tuple[()]:
    return ()


def _leaves_as_is(self: Host) -> None:
    return None


async def _confirms_nobody(self: Changes) -> list[CaasError]:
    return []


def _takes_nothing_back(before: HostState, in_force: ClusterHost) -> ClusterHost:
    return replace(in_force, taken_back=True)


def _looks_after_nobody(self: CatchingUp, again: str = "") -> None:
    return None


BREAKS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "generation": (Host, "_check", _never_check, "goes back from generation"),
    "late apply": (Removals, "check_apply", _takes_all, "comes back at generation"),
    "late removal": (agent.host, "check_removal", _takes_all, "goes back from generation"),
    "unique": (coordinator.compiling.allocate, "_make_mac", _make_same_mac, "MAC 02"),
    "unowned": (agent.core.apply, "scope", _everything, " of k"),
    "converges": (agent.core.apply, "make_plan", _plans_nothing, "are wanted"),
    "left": (Host, "destroy", _forgets_only, "left after down"),
    "catches up": (CatchingUp, "look", _looks_after_nobody, "waits: {"),
    "confirms": (Changes, "confirm", _confirms_nobody, "after up: host"),
    "takes back": (Host, "take_back_due", _leaves_as_is, "waits to be confirmed"),
    "takes back to what was": (agent.host, "make_taken_back", _takes_nothing_back, "is taken back to"),
    "restore": (Host, "restore", _leaves_as_is, "not restored"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_invariant_can_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, broken, words = BREAKS[name]
    monkeypatch.setattr(where, attribute, broken)
    found: list[str] = []
    for seed in range(1, 100):
        found = run_seed(seed, with_nova=False, weather=STORMY).violations
        if any(words in line for line in found):
            return
    pytest.fail(f"{name} was broken, and nothing was found: {found}")


@pytest.mark.slow
def test_a_thousand_hosts_converge() -> None:
    done = converge(1000)
    assert done.wrong == ()
    assert done.died == 50
    assert done.seconds < 60
