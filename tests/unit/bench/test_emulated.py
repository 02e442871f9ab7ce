"""Figures that another kernel gives: asked for, read from what the guest said, and put in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import carrier, emulated
from tests.bench.emulated import NoGuestError, read_said
from tests.bench.figure import Figure, Goal, make_limited, make_paired, make_unmeasured, read_figure
from tests.bench.groups import Group
from tests.bench.traffic import Traffic, alternate

GOAL = Goal(ratio_least=1.0)
NATIVE = make_limited("up-one", [20.0], unit="s", limit=120, source="issue 2")
LACKING = make_unmeasured("vlan-kernel-tcp", unit="Gb/s", goal=GOAL, why="this kernel has no 8021q", lacks="vlan")
GIVEN = make_paired("vlan-kernel-tcp", [(1.5, 1.0), (2.0, 1.0)], unit="Gb/s", peer="untagged", goal=GOAL, detail=["a"])
Answer = tuple[dict[str, Figure], dict[str, str]]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bench.Results:
    monkeypatch.setattr(bench, "SCRATCH", tmp_path / "scratch")
    return bench.Results(figures=[NATIVE, LACKING, NATIVE])


def play(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Answer]) -> list[list[str]]:
    """What the guest is asked for; it gives *answer*."""
    asked = []

    def measure(names: Iterable[str], folder: Path) -> Answer:
        assert folder.is_dir()
        asked.append(list(names))
        return answer()

    monkeypatch.setattr(bench, "measure_emulated", measure)
    return asked


@pytest.mark.parametrize("figure", [NATIVE, LACKING, GIVEN])
def test_a_figure_is_read_as_it_was_said(figure: Figure) -> None:
    assert read_figure(figure.line()) == figure
    assert "\n" not in figure.line()


def test_what_the_guest_said_among_other_things() -> None:
    said = (
        "[    1.2] booting\r\n=== guest: 6.1\n\n"
        f"=== figure vlan-kernel-tcp {GIVEN.line()}\r\n"
        "\n=== failed ipip-kernel-tcp AssertionError: lost\nmore of it\n=== bench: status 0\n"
    )
    found, failed = read_said(said, ["vlan-kernel-tcp", "ipip-kernel-tcp", "ipip-kernel-pps"])
    assert found == {"vlan-kernel-tcp": GIVEN}
    assert failed["ipip-kernel-tcp"] == "AssertionError: lost"
    assert "said nothing" in failed["ipip-kernel-pps"]
    assert set(failed) == {"ipip-kernel-tcp", "ipip-kernel-pps"}


def test_inside_each_figure_says_where_it_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
        assert wanted == {"vlan-kernel-tcp", "vlan-kernel-pps"}
        assert folder == tmp_path
        yield GIVEN
        raise AssertionError("\nno link")

    def load() -> tuple[Group, ...]:
        return Group(("up-one",), never), Group(("vlan-kernel-tcp", "vlan-kernel-pps", "more"), measure)

    def never(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
        raise AssertionError(f"{wanted} were not asked for")

    monkeypatch.setattr(emulated, "load_groups", load)
    wanted = frozenset({"vlan-kernel-tcp", "vlan-kernel-pps"})
    assert emulated.main(tmp_path, wanted) == 0
    found, failed = read_said(capsys.readouterr().out, wanted)
    assert found["vlan-kernel-tcp"].runs == GIVEN.runs
    against = found["vlan-kernel-tcp"].against
    assert against.startswith("untagged: 1 Gb/s; on Linux ")
    assert against.endswith("under emulation, the ratio is one of instructions")
    assert failed == {"vlan-kernel-pps": "AssertionError: no link"}


def test_what_the_guest_gives_takes_its_place_in_the_table(
    monkeypatch: pytest.MonkeyPatch, results: bench.Results
) -> None:
    asked = play(monkeypatch, lambda: ({"vlan-kernel-tcp": GIVEN}, {}))
    results.add_emulated()
    assert asked == [["vlan-kernel-tcp"]]
    assert results.figures == [NATIVE, GIVEN, NATIVE]
    assert not results.failed


def test_no_guest_is_no_failure_and_is_said(monkeypatch: pytest.MonkeyPatch, results: bench.Results) -> None:
    def refuse() -> Answer:
        raise NoGuestError("no stock kernel: vng is not there: make venv")

    play(monkeypatch, refuse)
    results.add_emulated()
    assert results.figures[1].against == f"{LACKING.against}; no stock kernel: vng is not there: make venv"
    assert (results.figures[1].value, results.failed) == (None, False)


def test_what_fails_in_the_guest_is_a_failure(monkeypatch: pytest.MonkeyPatch, results: bench.Results) -> None:
    play(monkeypatch, lambda: ({}, {"vlan-kernel-tcp": "AssertionError: lost"}))
    results.add_emulated()
    assert (results.figures[1].against, results.failed) == ("not measured: AssertionError: lost", True)
    assert len(results.figures) == 3


def test_what_fails_outside_it_is_one_too(monkeypatch: pytest.MonkeyPatch, results: bench.Results) -> None:
    def fail() -> Answer:
        raise OSError("clang")

    play(monkeypatch, fail)
    results.add_emulated()
    assert (results.figures[1].against, results.failed) == ("not measured: OSError: clang", True)


def test_a_kernel_that_has_everything_needs_no_guest(monkeypatch: pytest.MonkeyPatch, results: bench.Results) -> None:
    asked = play(monkeypatch, lambda: ({}, {}))
    results.figures = [NATIVE]
    results.add_emulated()
    assert asked == []


def test_figures_of_a_device_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"vlan": "Error: Unknown device type.", "ipip": ""}
    monkeypatch.setattr(carrier, "kernel_words", words.__getitem__)
    (one, other) = carrier.find_lacking({"a-tcp": GOAL, "b-pps": None}, "vlan")
    assert (one.name, one.unit, one.goal, one.lacks) == ("a-tcp", "Gb/s", "ratio >= 1", "vlan")
    assert (other.name, other.unit, other.goal) == ("b-pps", "packets/s", "")
    assert one.against == "not measured: this kernel has no 8021q: Error: Unknown device type."
    assert carrier.find_lacking({"a-tcp": GOAL}, "ipip") == []


class Way:
    """Carries so much."""

    def __init__(self, stream: float, packets: float) -> None:
        self._stream, self._packets = stream, packets

    def stream(self, traffic: Traffic) -> float:
        return self._stream

    def packets(self, traffic: Traffic) -> float:
        return self._packets


def test_each_figure_compares_what_its_name_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_PAIRS", "2")
    (tmp_path / "traffic").touch()
    goals = {"x-pps": None, "x-tcp": GOAL}
    pps, tcp = carrier.compare(goals, Way(3, 30), Way(2, 60), peer="it", traffic=Traffic(tmp_path))
    assert (pps.value, pps.ratio, pps.goal, pps.met, pps.unit) == (30, 0.5, "", None, "packets/s")
    assert (tcp.value, tcp.ratio, tcp.met, tcp.unit) == (3, 1.5, True, "Gb/s")
    assert len(tcp.runs) == 2


def test_pairs_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PAIRS", "3")
    said: list[str] = []

    def say(word: str) -> float:
        said.append(word)
        return len(said)

    runs = alternate(lambda: say("ours"), lambda: say("other"))
    assert said[2:] == ["ours", "other", "other", "ours", "ours", "other"]
    assert runs == [(3, 4), (6, 5), (7, 8)]
