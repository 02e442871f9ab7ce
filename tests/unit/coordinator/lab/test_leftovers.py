"""What `lab down` removes by itself: mounts that concern the lab's folder, and no others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from coordinator.lab import leftovers
from coordinator.lab.leftovers import check_no_mounts, read_mounts
from coordinator.lab.places import Places
from proto.errors import CaasError

LAB = Path("/var/lib/caas/labs/lab")
MOUNTINFO = r"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:40 / /var/lib/caas/labs/lab/machines/host1/state/containers/demo.a/rootfs rw - overlay none rw,lowerdir=/i
31 21 0:41 / /mnt/a\040b rw - overlay overlay rw,upperdir=/var/lib/caas/labs/lab/x,workdir=/w
32 21 254:0 /var/lib/caas/labs/lab/y /mnt/bind rw - ext4 /dev/vda rw
33 21 0:42 / /var/lib/caas/labs/lab2/x rw - tmpfs tmpfs rw
34 21 0:43 / /var/lib/caas/labs/lab rw - tmpfs tmpfs rw
35 21 0:44 / /srv rw - overlay overlay rw,upperdir=/var/lib/caas/labs/lab-2/x
""".strip()


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO + "\n")
    monkeypatch.setattr(leftovers, "MOUNTINFO", path)
    return path


def test_mounts_below_or_made_of_the_labs_folder_concern_it(mountinfo: Path) -> None:
    concerned = [str(mount.target) for mount in read_mounts(mountinfo) if mount.concerns(LAB)]
    assert concerned == [
        "/var/lib/caas/labs/lab/machines/host1/state/containers/demo.a/rootfs",
        "/mnt/a b",
        "/mnt/bind",
        "/var/lib/caas/labs/lab",
    ]


def test_nothing_is_removed_through_a_mount(mountinfo: Path) -> None:
    with pytest.raises(CaasError, match=r"demo\.a/rootfs is a mount point"):
        check_no_mounts(LAB)
    check_no_mounts(Path("/var/lib/caas/labs/other"))


def test_the_agents_and_the_lab_agree_on_the_folder_of_cgroups() -> None:
    from agent.containers.config import cgroup_base

    lxcpath = LAB / "machines/host1/state/containers"
    assert leftovers.cgroup_folder(lxcpath) == cgroup_base(lxcpath)


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hierarchies with a container of lab `one`, and one of lab `two`."""
    monkeypatch.setattr(leftovers, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr("coordinator.lab.places.LABS", tmp_path / "labs")
    for lab, procs in (("one", {"demo.a/init.scope": os.getppid(), "demo.a.monitor": os.getpid()}), ("two", {})):
        machine = tmp_path / "labs" / lab / "machines/host1"
        machine.mkdir(parents=True)
        base = leftovers.cgroup_folder(machine / "state/containers")
        for hierarchy in ("pids", "memory/deeper"):
            for name in ("demo.a", "demo.a/init.scope", "demo.a.monitor"):
                folder = tmp_path / "cgroup" / hierarchy / base / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "cgroup.procs").write_text(f"{procs.get(name, '')}\n")
    return tmp_path


def test_cgroups_are_the_labs_own_and_the_deepest_come_first(cgroups: Path) -> None:
    found = leftovers.find_cgroups(Places("one"))
    base = leftovers.cgroup_folder(Places("one").state / "machines/host1/state/containers")
    assert len(found) == 8, "the folder and three in it, in two hierarchies"
    assert all(base in path.parts for path in found)
    for index, path in enumerate(found):
        assert not any(other.is_relative_to(path) for other in found[index + 1 :])


def test_processes_are_told_from_monitors_and_never_our_own(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        for path in (cgroups / "cgroup").rglob("init.scope/cgroup.procs"):
            if leftovers.cgroup_folder(Places("one").state / "machines/host1/state/containers") in path.parts:
                path.write_text(f"{child.pid}\n{os.getpid()}\n")
        inside, monitors = leftovers.container_processes(Places("one"))
        assert [process.pid for process in inside] == [child.pid]
        assert monitors == (), "it is this very process that the file names"
        assert leftovers.container_processes(Places("two")) == ((), ())
    finally:
        child.kill()
        child.wait()


def test_only_empty_cgroups_go(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c/d").mkdir(parents=True)
    (tmp_path / "c/d/busy").touch()
    paths = tuple(tmp_path / name for name in ("a/b", "a", "c/d", "c"))
    assert leftovers.remove_cgroups(paths, wait=0.2) == (tmp_path / "c/d", tmp_path / "c")
    assert not (tmp_path / "a").exists()


def test_lock_files_of_liblxc_go_and_other_labs_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LXC_LOCKS", tmp_path)
    for lab in ("lab", "lab2"):
        folder = tmp_path / f"var/lib/caas/labs/{lab}/machines/host1/state/containers"
        folder.mkdir(parents=True)
        (folder / ".demo.a").touch()
    leftovers.remove_lxc_locks(LAB)
    assert [path.name for path in (tmp_path / "var/lib/caas/labs").iterdir()] == ["lab2"]
    leftovers.remove_lxc_locks(LAB.with_name("lab2"))
    leftovers.remove_lxc_locks(LAB.with_name("lab2"))
    assert list(tmp_path.iterdir()) == []
