"""What `lab down` removes by itself: mounts that concern the lab's folder, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.lab import leftovers
from coordinator.lab.leftovers import check_no_mounts, read_mounts, stale_cgroup_names
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


def test_cgroups_of_the_labs_containers_that_nothing_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "CGROUPS", tmp_path)
    for name, procs in (
        ("pids/lxc.payload.demo.a", ""),
        ("pids/lxc.payload.demo.a/system.slice", ""),
        ("pids/lxc.monitor.demo.a-1", ""),
        ("pids/lxc.payload.demo.a-2/init.scope", "77\n"),
        ("pids/lxc.payload.demo.ab", ""),
        ("pids/lxc.payload.demoxa", ""),
    ):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "cgroup.procs").write_text(procs)
    assert stale_cgroup_names(("demo.a",)) == {"lxc.payload.demo.a", "lxc.monitor.demo.a-1"}
    assert stale_cgroup_names(()) == frozenset()
    found = leftovers.find_cgroups(frozenset({"lxc.payload.demo.a"}))
    assert [path.name for path in found] == ["system.slice", "lxc.payload.demo.a"], "deepest first"
