"""Root file systems of all three kinds, and clones of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from agent.containers.rootfs import Storage, overlay_works, probe_storage
from proto.errors import CaasError, Code
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
            door.create(container(2, clone_of="c1"))
            door.start(container(2, clone_of="c1"))
            assert inside(pid_of(door, container(2)), "cat", "/root/file") == "kept\n"
        finally:
            for seen in door.observe():
                door.delete(seen.container)
    listed = subprocess.run(["btrfs", "subvolume", "list", str(btrfs)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == [str(build.rootfs.relative_to(btrfs))]


@pytest.mark.parametrize("storage", [Storage.OVERLAY, Storage.COPY])
def test_a_clone_has_the_files_and_not_the_identity(
    open_door: Callable[..., LxcDoor], container: Make, storage: Storage
) -> None:
    door = open_door(storage=storage)
    source, clone = container(), container(2, clone_of="c1")
    door.create(source)
    door.start(source)
    script = (
        "echo kept > /root/file; rm /etc/inittab; mkdir -p /etc/ssh /var/lib/nova; "
        "echo 8d5f > /etc/machine-id; echo key > /etc/ssh/ssh_host_rsa_key; echo id > /var/lib/nova/compute_id"
    )
    inside(pid_of(door, source), "sh", "-c", script)
    with pytest.raises(CaasError, match="only a stopped one") as failure:
        door.create(clone)
    assert failure.value.code is Code.REFUSED
    door.stop(source)
    door.create(clone)
    door.start(clone)
    pid = pid_of(door, clone)
    assert inside(pid, "cat", "/root/file") == "kept\n"
    assert inside(pid, "cat", "/etc/hostname") == "c2\n"
    assert inside(pid, "cat", "/etc/machine-id") == ""
    for gone in ("/etc/inittab", "/etc/ssh/ssh_host_rsa_key", "/var/lib/nova/compute_id"):
        assert inside(pid, "sh", "-c", f"[ -e {gone} ] || echo gone") == "gone\n"
    door.start(source)
    assert inside(pid_of(door, source), "cat", "/etc/machine-id") == "8d5f\n", "the source lost its identity"
    inside(pid, "sh", "-c", "echo changed > /root/file")
    assert inside(pid_of(door, source), "cat", "/root/file") == "kept\n"
    door.delete(source)
    assert inside(pid, "cat", "/root/file") == "changed\n"


def test_clones_that_are_refused(door: LxcDoor, container: Make) -> None:
    with pytest.raises(CaasError, match=r"no container t\.c1 to clone") as failure:
        door.create(container(2, clone_of="c1"))
    assert failure.value.code is Code.NOT_FOUND
    door.create(container())
    with pytest.raises(CaasError, match="its image is other") as failure:
        door.create(container(2, clone_of="c1", image="other"))
    assert failure.value.code is Code.CONFLICT
    assert len(door.observe()) == 1
