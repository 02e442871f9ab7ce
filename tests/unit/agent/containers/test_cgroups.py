"""Cgroups of ours: found, measured, removed; those of others left alone. Folders stand in for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers.cgroups import Cgroups, Hierarchy
from proto.errors import CaasError, Code

BASE = "caas-0123"


def make_cgroups(top: Path, *versions: int) -> Cgroups:
    hierarchies = []
    for number, version in enumerate(versions):
        path = top / str(number)
        for part in ("c1", "c1/inner", "c1.monitor", "c1.pivot/lxc.pivot", "c2"):
            (path / BASE / part).mkdir(parents=True)
        (path / "lxc.monitor.c1").mkdir()
        hierarchies.append(Hierarchy(path=path, version=version, controllers=frozenset({"memory"})))
    return Cgroups(BASE, tuple(hierarchies))


def test_all_of_a_container_and_nothing_else_is_removed(tmp_path: Path) -> None:
    cgroups = make_cgroups(tmp_path, 1, 2)
    assert cgroups.remove("c1", patience=0, deadline=1) == 10
    for number in "01":
        assert [path.name for path in (tmp_path / number / BASE).iterdir()] == ["c2"]
        assert (tmp_path / number / "lxc.monitor.c1").is_dir()
    cgroups.remove_base()
    assert (tmp_path / "0" / BASE).is_dir(), "another container's cgroup is in it"
    cgroups.remove("c2", patience=0, deadline=1)
    cgroups.remove_base()
    assert not (tmp_path / "0" / BASE).exists()


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    cgroups = make_cgroups(tmp_path, 2)
    (tmp_path / "0" / BASE / "c1" / "cgroup.procs").write_text("")  # a file that is not the kernel's keeps it
    with pytest.raises(CaasError, match="cannot be removed") as failure:
        cgroups.remove("c1", patience=0, deadline=0.02)
    assert failure.value.code is Code.BUSY


@pytest.mark.parametrize(("version", "file"), [(1, "memory.usage_in_bytes"), (2, "memory.current")])
def test_memory(tmp_path: Path, version: int, file: str) -> None:
    cgroups = make_cgroups(tmp_path, version)
    (tmp_path / "0" / BASE / "c1" / file).write_text("4096\n")
    assert cgroups.memory_bytes("c1") == 4096
    assert cgroups.memory_bytes("c3") == 0


def test_memory_of_v1_wins_on_a_machine_with_both(tmp_path: Path) -> None:
    cgroups = make_cgroups(tmp_path, 2, 1)
    (tmp_path / "1" / BASE / "c1" / "memory.usage_in_bytes").write_text("8192")
    assert cgroups.memory_bytes("c1") == 8192


def test_processes_are_those_in_our_folders(tmp_path: Path) -> None:
    cgroups = make_cgroups(tmp_path, 1)
    for part, text in (("c1/inner", "11\n12\n"), ("c1.monitor", "13\n"), ("c2", "14\n")):
        (tmp_path / "0" / BASE / part / "cgroup.procs").write_text(text)
    assert cgroups.processes("c1") == {11, 12, 13}
