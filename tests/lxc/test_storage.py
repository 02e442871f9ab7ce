"""Root file systems of all three kinds."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from agent.containers.rootfs import Storage, overlay_works, probe_storage
from proto.model import Container
from tests.lxc.test_door import inside, pid_of

Make = Callable[..., Container]


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A btrfs of its own, in a file."""
    file, point = tmp_path / "disk", tmp_path / "btrfs"
    with file.open("wb") as opened:
        opened.truncate(256 * 2**20)
    subprocess.run(["mkfs.btrfs", "-q", str(file)], check=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(file), str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


def live(door: LxcDoor, one: Container) -> None:
    """It starts, writes and keeps what it wrote."""
    door.create(one)
    door.start(one)
    inside(pid_of(door, one), "sh", "-c", "echo kept > /root/file")
    assert inside(pid_of(door, one), "cat", "/etc/hostname") == f"{one.hostname}\n"
    door.stop(one)
    door.start(one)
    assert inside(pid_of(door, one), "cat", "/root/file") == "kept\n"
    door.stop(one)


@pytest.mark.parametrize("storage", [Storage.OVERLAY, Storage.COPY])
def test_forced(open_door: Callable[..., LxcDoor], container: Make, storage: Storage, images: Path) -> None:
    door = open_door(storage=storage)
    live(door, container())
    assert (door.lxcpath / "t.c1/rootfs").exists() is (storage is Storage.COPY)
    assert list(images.glob("*/*/rootfs/root/file")) == []


def test_overlay_is_tried_and_leaves_nothing(state: Path, images: Path) -> None:
    assert overlay_works(state)
    assert list(state.iterdir()) == []
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    assert probe_storage(state, ImageStore(images).find("test-busybox").rootfs) is Storage.OVERLAY


def test_no_overlay_where_the_kernel_refuses_it() -> None:
    """procfs takes no files, an overlay on tmpfs is fine: the answer is the kernel's, not ours."""
    assert overlay_works(Path("/dev/shm"))
    with pytest.raises(OSError, match="probe"):
        overlay_works(Path("/proc"))


def test_btrfs_snapshots(host: str, btrfs: Path, container: Make) -> None:
    store = ImageStore(btrfs / "images")
    build = build_image(store, "test-busybox").build
    assert build.rootfs.stat().st_ino == 256, "no subvolume"
    with LxcDoor(btrfs / "state", images=store.images, workers=2, stop_patience=5) as door:
        try:
            assert door.storage_for(build.rootfs) is Storage.BTRFS
            live(door, container())
            assert (door.lxcpath / "t.c1/rootfs").stat().st_ino == 256
            door.start(container())
            for number in (2, 3):  # of one that runs, and of one that does not
                clone = container(number, clone_of="c1")
                door.create(clone)
                door.start(clone)
                assert (door.lxcpath / clone.name / "rootfs").stat().st_ino == 256
                assert inside(pid_of(door, clone), "cat", "/root/file", "/etc/hostname") == f"kept\nc{number}\n"
                inside(pid_of(door, clone), "sh", "-c", "echo own > /root/file")
                door.stop(container())
        finally:
            for seen in door.observe():
                door.delete(seen.container)
    listed = subprocess.run(["btrfs", "subvolume", "list", str(btrfs)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == [str(build.rootfs.relative_to(btrfs))]
