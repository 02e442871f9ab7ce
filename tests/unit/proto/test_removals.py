"""Removals: which of two calls is the older, what is remembered, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.saved import SavedStates
from natbox.saved import SavedTables
from proto.errors import CaasError, Code
from proto.removals import KEPT, Removals, check_removal


def is_stale(removals: Removals, generation: int, *, is_empty: bool = False) -> bool:
    try:
        removals.check_apply("demo", generation, is_empty=is_empty)
    except CaasError as exc:
        return exc.code is Code.STALE and exc.message.startswith("demo: generation ")
    return False


def test_what_is_not_above_a_removal_comes_too_late(tmp_path: Path) -> None:
    removals = Removals(SavedStates(tmp_path))
    assert not is_stale(removals, 1)
    removals.remember("demo", 5, {})
    assert [generation for generation in range(1, 8) if is_stale(removals, generation)] == [1, 2, 3, 4, 5]
    assert [generation for generation in range(1, 8) if is_stale(removals, generation, is_empty=True)] == [1, 2, 3, 4]
    removals.check_apply("other", 1, is_empty=False)


@pytest.mark.parametrize("kind", [SavedStates, SavedTables])
def test_removals_outlive_the_process_and_never_go_back(
    tmp_path: Path, kind: type[SavedStates] | type[SavedTables]
) -> None:
    Removals(kind(tmp_path)).remember("demo", 5, {})
    again = Removals(kind(tmp_path))
    again.remember("demo", 4, {})
    assert again.all() == {"demo": 5}
    assert kind(tmp_path).load() == {}, "a removal is no saved state"


def test_a_removal_is_forgotten_when_the_cluster_is_up_again_and_another_goes(tmp_path: Path) -> None:
    removals = Removals(SavedStates(tmp_path))
    removals.remember("demo", 5, {})
    removals.remember("same", 5, {})
    removals.remember("gone", 2, {"demo": 6, "same": 5, "gone": 1})
    assert removals.all() == {"same": 5, "gone": 2}


def test_so_many_removals_are_kept_the_last_ones(tmp_path: Path) -> None:
    folder = SavedStates(tmp_path)
    folder.save_removed({f"k{number}": 1 for number in range(KEPT)})
    removals = Removals(folder)
    removals.remember("k0", 2, {})
    removals.remember("more", 1, {})
    found = Removals(folder).all()
    assert len(found) == KEPT
    assert "k1" not in found
    assert (found["k0"], found["more"]) == (2, 1)


@pytest.mark.parametrize("text", ["[", "[1]", '{"demo": "x"}', '{"demo": null}'])
def test_what_cannot_be_read_is_an_error_never_skipped(tmp_path: Path, text: str) -> None:
    (tmp_path / "removed").write_text(text)
    with pytest.raises(CaasError, match="removed: not generations") as caught:
        Removals(SavedStates(tmp_path))
    assert "move it away" in caught.value.hint


@pytest.mark.parametrize(
    ("generation", "in_force", "is_empty", "stale"),
    [
        (3, 4, False, True),
        (4, 4, False, True),
        (5, 4, False, False),
        (0, 4, False, False),
        (4, 4, True, False),
        (3, 4, True, True),
        (1, 0, True, False),
    ],
)
def test_a_removal_is_above_what_it_removes(generation: int, in_force: int, is_empty: bool, stale: bool) -> None:
    if not stale:
        check_removal("demo", generation, in_force, is_empty=is_empty)
        return
    with pytest.raises(CaasError, match="demo: its removal at generation") as caught:
        check_removal("demo", generation, in_force, is_empty=is_empty)
    assert caught.value.code is Code.STALE
