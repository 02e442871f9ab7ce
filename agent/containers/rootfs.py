"""Root file systems of containers: an overlay over the image, a btrfs snapshot of it, or a copy.

Nothing here imports pydantic or liblxc's binding: workers load it, and each container's monitor is a fork of one.
"""

from __future__ import annotations

import ctypes
import enum
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from agent.containers.children import die_with_parent
from agent.containers.inside import resolve_inside, work_inside
from proto.errors import CaasError, Code

#: What liblxc starts when nothing else is said (lxc.init.cmd in lxc.container.conf(5)).
INIT = "sbin/init"
ROOTFS = "rootfs"
DELTA = "delta"
UPPER = "delta/upper"

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_SUBVOLUME_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the inode of every subvolume's root


class Storage(enum.Enum):
    """How a container's root file system relates to its image, best first where the file system allows it."""

    BTRFS = "btrfs"
    OVERLAY = "overlay"
    COPY = "copy"

    @property
    def words(self) -> str:
        """What people read."""
        return {
            Storage.BTRFS: "btrfs snapshots of the image",
            Storage.OVERLAY: "overlays over the image",
            Storage.COPY: "plain copies of the image: neither overlay nor btrfs works here",
        }[self]


def check_rootfs(rootfs: Path, *, owner: str, hint: str) -> None:
    """Refuse *rootfs* unless it is a folder of its own with an init in it (NOT_FOUND; *owner* is named).

    A container without one would boot the machine's own root file system.
    """
    if not rootfs.is_absolute() or not rootfs.is_dir() or rootfs.resolve() == Path("/"):
        raise CaasError(Code.NOT_FOUND, f"{owner}: {rootfs} is not a root file system", hint=hint)
    if resolve_inside(rootfs, INIT) is None:
        raise CaasError(Code.NOT_FOUND, f"{owner}: {rootfs} has no /{INIT}: not a root file system", hint=hint)


def probe_storage(state: Path, image_rootfs: Path) -> Storage:
    """The best storage that works for containers in *state* made from *image_rootfs*: tried, not guessed."""
    if image_rootfs.stat().st_ino == _SUBVOLUME_INODE and snapshot_works(state, image_rootfs):
        return Storage.BTRFS
    return Storage.OVERLAY if overlay_works(state) else Storage.COPY


def snapshot_works(state: Path, image_rootfs: Path) -> bool:
    """Whether *state* takes a btrfs snapshot of *image_rootfs*: both on one btrfs, and the tool is there."""
    if not shutil.which("btrfs"):
        return False
    with tempfile.TemporaryDirectory(dir=state, prefix=".probe-") as name:
        snapshot = f"{name}/snapshot"
        made = ["btrfs", "subvolume", "snapshot", str(image_rootfs), snapshot]
        if subprocess.run(made, capture_output=True, check=False).returncode != 0:
            return False
        return (
            subprocess.run(["btrfs", "subvolume", "delete", snapshot], capture_output=True, check=False).returncode == 0
        )


def overlay_works(state: Path) -> bool:
    """Whether an overlay with its upper folder in *state* can be mounted and written; tried in a child's namespace."""
    with tempfile.TemporaryDirectory(dir=state, prefix=".probe-") as name:
        for folder in ("lower", "upper", "work", "merged"):
            Path(name, folder).mkdir()
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if _mount_overlay(name) else 1)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0


def _mount_overlay(folder: str) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None):
        return False
    if libc.mount(b"overlay", f"{folder}/merged".encode(), b"overlay", ctypes.c_ulong(0), options.encode()):
        return False
    Path(folder, "merged", "file").touch()
    return Path(folder, "upper", "file").exists()


def make_rootfs(place: Path, storage: Storage, image_rootfs: Path, *, hostname: str) -> None:
    """Make the root file system of a new container in *place* (its folder)."""
    match storage:
        case Storage.OVERLAY:
            (place / UPPER).mkdir(parents=True)
            _copy_attributes(image_rootfs, place / UPPER)
        case Storage.BTRFS:
            _run(["btrfs", "subvolume", "snapshot", str(image_rootfs), str(place / ROOTFS)])
        case Storage.COPY:
            _copy(image_rootfs, place / ROOTFS)
    write_hostname(place, storage, image_rootfs, hostname)


def copy_rootfs(source: Path, place: Path, storage: Storage) -> None:
    """Make in *place* the root file system that is in *source*; nothing may write to that meanwhile."""
    if storage is Storage.OVERLAY:
        (place / DELTA).mkdir()
        # Said again, a failure to keep an attribute is an error: without trusted.overlay.opaque, what was removed
        # would be there again.
        _copy(source / UPPER, place / UPPER, "--preserve=xattr")
    elif storage is Storage.BTRFS:
        _run(["btrfs", "subvolume", "snapshot", str(source / ROOTFS), str(place / ROOTFS)])
    else:
        _copy(source / ROOTFS, place / ROOTFS)


def clone_rootfs(place: Path, storage: Storage, seed: Path, image_rootfs: Path, *, hostname: str) -> None:
    """Make the root file system of a clone in *place* from *seed* (clones.take_seed)."""
    copy_rootfs(seed, place, storage)
    root = writable_root(place, storage)
    _make_etc(root, image_rootfs)
    work_inside(root, lambda: _write_hostname(Path("/etc"), hostname), owner=f"container {place.name}: /etc/hostname")


def writable_root(place: Path, storage: Storage) -> Path:
    """The folder that has what the container itself wrote."""
    return place / UPPER if storage is Storage.OVERLAY else place / ROOTFS


def write_hostname(place: Path, storage: Storage, image_rootfs: Path, hostname: str) -> None:
    """systemd takes its host name from /etc/hostname even where liblxc set another: RabbitMQ then hangs (facts.md)."""
    root = writable_root(place, storage)
    _make_etc(root, image_rootfs)
    _write_hostname(root / "etc", hostname)


def _make_etc(root: Path, image_rootfs: Path) -> None:
    etc = root / "etc"
    if not os.path.lexists(etc):
        etc.mkdir()
        _copy_attributes(image_rootfs / "etc", etc)


def _write_hostname(etc: Path, hostname: str) -> None:
    path = etc / "hostname"
    path.unlink(missing_ok=True)
    path.write_text(f"{hostname}\n")
    path.chmod(0o644)


def _copy_attributes(source: Path, target: Path) -> None:
    """In an overlay the upper folder's owner and mode win: they must be the lower's."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)


def _copy(source: Path, target: Path, *options: str) -> None:
    # --archive keeps owners, times, hard links, sockets, device nodes (whiteouts), and attributes where it can.
    _run(["cp", "--archive", "--reflink=auto", *options, "--no-target-directory", str(source), str(target)])


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, preexec_fn=die_with_parent)
    if done.returncode != 0:
        code = Code.NO_ROOM if "No space left" in done.stderr else Code.FAILED
        raise CaasError(code, f"{' '.join(argv)}: {done.stderr.strip()[-400:]}")
