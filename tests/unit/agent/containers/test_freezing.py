"""Held still and let go again: folders stand in for the kernel's cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers import freezing
from agent.containers.cgroups import Hierarchy
from agent.containers.freezing import NOTE, Freezer
from proto.errors import CaasError, Code

BASE = "caas-0123"


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """The cgroup of c1 in a freezer of version 1, which freezes at once; c2's is beside it."""
    for name in ("c1", "c2"):
        (tmp_path / "freezer" / BASE / name).mkdir(parents=True)
        (tmp_path / "freezer" / BASE / name / "freezer.state").write_text("THAWED")
    (tmp_path / "lxc").mkdir()
    return tmp_path / "freezer" / BASE / "c1/freezer.state"


def freezer_of(tmp_path: Path, version: int = 1) -> Freezer:
    hierarchy = Hierarchy(path=tmp_path / "freezer", version=version, controllers=frozenset({"freezer"}))
    return Freezer(tmp_path / "lxc", BASE, (hierarchy,))


def test_frozen_inside_and_thawed_after_also_on_failure(v1: Path, tmp_path: Path) -> None:
    freezer = freezer_of(tmp_path)
    with freezer.still("c1"):
        assert v1.read_text() == "FROZEN"
        assert freezer.is_frozen("c1")
        assert freezer.left() == ["c1"]
    assert (v1.read_text(), freezer.left()) == ("THAWED", [])
    with pytest.raises(ZeroDivisionError), freezer.still("c1"):
        _ = 1 / 0
    assert (v1.read_text(), freezer.left()) == ("THAWED", [])
    assert v1.parent.with_name("c2").joinpath("freezer.state").read_text() == "THAWED"


def test_v2(tmp_path: Path) -> None:
    folder = tmp_path / "freezer" / BASE / "c1"
    folder.mkdir(parents=True)
    (tmp_path / "lxc").mkdir()
    (folder / "cgroup.freeze").write_text("0")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    freezer = freezer_of(tmp_path, version=2)
    assert not freezer.is_frozen("c1")
    (folder / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert freezer.is_frozen("c1")
    (tmp_path / "lxc" / f"{NOTE}c1").touch()  # by a worker that was killed, not by somebody else
    with freezer.still("c1"):
        assert (folder / "cgroup.freeze").read_text() == "1"
    assert (folder / "cgroup.freeze").read_text() == "0"


def test_who_was_killed_leaves_a_note(v1: Path, tmp_path: Path) -> None:
    (tmp_path / "lxc" / f"{NOTE}c1").touch()
    v1.write_text("FROZEN")
    freezer = freezer_of(tmp_path)
    assert freezer.left() == ["c1"]
    assert freezer.thaw_left("c1")
    assert not freezer.thaw_left("c1")
    assert (v1.read_text(), freezer.left()) == ("THAWED", [])
    (tmp_path / "lxc" / f"{NOTE}gone").touch()
    assert freezer.thaw_left("gone"), "its cgroup went with it"


def test_what_somebody_else_froze_stays_so(v1: Path, tmp_path: Path) -> None:
    v1.write_text("FROZEN")
    freezer = freezer_of(tmp_path)
    with freezer.still("c1"):
        assert freezer.left() == []
    assert v1.read_text() == "FROZEN"
    assert not freezer.thaw_left("c1")
    assert v1.read_text() == "FROZEN"


def test_what_does_not_freeze_is_let_go_and_said(v1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_PATIENCE", 0.02)
    monkeypatch.setattr(freezing, "_shows", lambda switch: False)
    with pytest.raises(CaasError, match=r"container c1: not frozen within 0\.02 s") as failure:
        with freezer_of(tmp_path).still("c1"):
            pytest.fail("it is not frozen")
    assert failure.value.code is Code.BUSY
    assert v1.read_text() == "THAWED"


def test_no_freezer(tmp_path: Path) -> None:
    (tmp_path / "lxc").mkdir()
    with pytest.raises(CaasError, match="no freezer") as failure, freezer_of(tmp_path).still("c1"):
        pytest.fail("it is not frozen")
    assert failure.value.code is Code.UNSUPPORTED
    assert list((tmp_path / "lxc").iterdir()) == []
