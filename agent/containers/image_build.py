"""Building an image: in a temporary folder beside the finished ones, made visible by one rename.

One build of a name at a time (flock). Whatever stands under a temporary name while the lock is held belongs to a
builder that is gone, and is removed. All that a build starts lives in a PID and mount namespace that ends with the
builder (kill -9 included), and holds the lock as long as anything of it lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.containers.image import MANIFEST, ImageBuild, ImageStore, load_build
from agent.containers.image_builders import BUILDERS
from agent.containers.image_clean import check_no_secrets, clean
from agent.containers.image_declaration import ImageDeclaration, ImageFile, load_declaration, make_digest
from agent.containers.image_sandbox import Sandbox
from agent.containers.inside import resolve_inside
from agent.containers.rootfs import ROOTFS, check_rootfs
from agent.containers.trees import disk_usage, remove_tree
from proto.errors import CaasError, Code

TEMPORARY = ".building-"
LOCK = ".lock"
LOG = "build.log"
_POLICY = "#!/bin/sh\n# Nothing is started while an image is built.\nexit 101\n"

Say = Callable[[str], None]


def say_on_stderr(text: str) -> None:
    """Progress for people."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The build, and whether it was made now (False: it was there already)."""

    build: ImageBuild
    made: bool


def build_image(store: ImageStore, name: str, *, say: Say = say_on_stderr) -> BuildResult:
    """Build *name* from its declaration unless that build exists. Needs root.

    Raises INVALID or NOT_FOUND for the declaration, FAILED where a package or script fails or a secret is left,
    NO_ROOM where the disk is full. Nothing of a failed build stays but its log, IMAGES/NAME/build.log.
    """
    path = store.declarations / f"{name}.yaml"
    declaration = load_declaration(path)
    digest = make_digest(declaration, path.parent)
    target = store.images / name / digest
    if (target / MANIFEST).exists():
        return BuildResult(build=load_build(target), made=False)
    if os.geteuid() != 0:
        raise CaasError(Code.UNSUPPORTED, f"image {name}: building needs root", hint=f"sudo caas image build {name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent, name, say) as lock:
        _remove_stale(target.parent, say)
        if (target / MANIFEST).exists():  # by the builder that had the lock before
            return BuildResult(build=load_build(target), made=False)
        _build_locked(declaration, path.parent, target=target, lock=lock, say=say)
    return BuildResult(build=load_build(target), made=True)


@contextlib.contextmanager
def _locked(folder: Path, name: str, say: Say) -> Iterator[int]:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
            say(f"image {name}: waiting for another build of it (pid {holder or 'unknown'})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _remove_stale(folder: Path, say: Say) -> None:
    for path in folder.glob(TEMPORARY + "*"):
        say(f"removing what a build that was cut off left: {path}")
        remove_tree(path)


def _build_locked(declaration: ImageDeclaration, folder: Path, *, target: Path, lock: int, say: Say) -> None:
    name = declaration.name
    temporary = target.parent / f"{TEMPORARY}{target.name}"
    temporary.mkdir(mode=0o711)
    began = time.monotonic()
    try:
        with (target.parent / LOG).open("wb") as log:
            sandbox = Sandbox(image=name, lock=lock, log=log, say=say)
            rootfs = temporary / ROOTFS
            _make_rootfs(rootfs)
            build = BUILDERS[declaration.builder](declaration, rootfs, sandbox)
            _add_masks(rootfs, declaration.mask)
            _add_files(rootfs, declaration, folder)
            _run_scripts(rootfs, declaration.run, folder, sandbox)
        say(f"image {name}: cleaning")
        packages = build()
        clean(rootfs)
        check_no_secrets(rootfs, image=name)
        check_rootfs(rootfs, owner=f"image {name}", hint="is systemd-sysv among its packages?")
        _write_manifest(temporary, declaration, digest=target.name, packages=packages, began=began)
        _sync(temporary)
        temporary.rename(target)
        _sync(target.parent)
    except OSError as exc:
        raise CaasError(Code.NO_ROOM if exc.errno == 28 else Code.FAILED, f"image {name}: {exc}") from exc
    finally:
        if temporary.exists():
            remove_tree(temporary)
    say(f"image {name}: built in {time.monotonic() - began:.1f} s: {target}")


def _make_rootfs(rootfs: Path) -> None:
    """A btrfs subvolume where the file system is btrfs (containers are then snapshots of it), else a folder."""
    made = (
        subprocess.run(["btrfs", "subvolume", "create", str(rootfs)], capture_output=True, check=False)
        if (shutil.which("btrfs"))
        else None
    )
    if made is None or made.returncode != 0:
        rootfs.mkdir(mode=0o755)


def _add_masks(rootfs: Path, units: Sequence[str]) -> None:
    folder = rootfs / "etc/systemd/system"
    for unit in units:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / unit).unlink(missing_ok=True)
        (folder / unit).symlink_to("/dev/null")


def _add_files(rootfs: Path, declaration: ImageDeclaration, folder: Path) -> None:
    for target, entry in declaration.files.items():
        parent, _, base = target.rpartition("/")
        _make_folders(rootfs, parent)
        place = resolve_inside(rootfs, parent)
        if place is None:
            raise CaasError(Code.FAILED, f"image {declaration.name}: {target}: {parent} leads out of the image")
        path = place / base
        path.unlink(missing_ok=True)
        path.write_bytes(_content(entry, folder))
        path.chmod(int(entry.mode, 8))
        os.chown(path, *_owner(rootfs, entry.owner, image=declaration.name))


def _make_folders(rootfs: Path, folder: str) -> None:
    so_far = ""
    for part in folder.strip("/").split("/"):
        so_far = f"{so_far}/{part}"
        above = resolve_inside(rootfs, so_far.rpartition("/")[0] or "/")
        if above is not None and resolve_inside(rootfs, so_far) is None:
            (above / part).mkdir(mode=0o755)


def _content(entry: ImageFile, folder: Path) -> bytes:
    return entry.content.encode() if entry.content is not None else (folder / str(entry.source)).read_bytes()


def _owner(rootfs: Path, owner: str, *, image: str) -> tuple[int, int]:
    """The numeric ids of USER[:GROUP] by the image's own passwd and group; without GROUP the user's."""
    user, _, group = owner.partition(":")
    users, groups = _ids(rootfs / "etc/passwd"), _ids(rootfs / "etc/group")
    if user not in users or (group and group not in groups):
        raise CaasError(Code.FAILED, f"image {image}: no user or group {owner} in it", hint="is its package listed?")
    return users[user][0], groups[group][0] if group else users[user][1]


def _ids(path: Path) -> dict[str, tuple[int, int]]:
    """{name: (own id, the number after it or -1)} of a passwd(5) or group(5) file; root is always known."""
    found = {"root": (0, 0)}
    for line in path.read_text().splitlines() if path.exists() else ():
        fields = line.split(":")
        if len(fields) > 3:
            found[fields[0]] = (int(fields[2]), int(fields[3]) if fields[3].isdigit() else -1)
    return found


def _run_scripts(rootfs: Path, scripts: Sequence[str], folder: Path, sandbox: Sandbox) -> None:
    policy = rootfs / "usr/sbin/policy-rc.d"
    if scripts:
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(_POLICY)
        policy.chmod(0o755)
    for script in scripts:
        began = time.monotonic()
        sandbox.say(f"image {sandbox.image}: running {script}")
        sandbox.run_inside(rootfs, (folder / script).read_bytes(), what=script)
        sandbox.say(f"image {sandbox.image}: {script} took {time.monotonic() - began:.1f} s")
    policy.unlink(missing_ok=True)


def _write_manifest(
    temporary: Path, declaration: ImageDeclaration, *, digest: str, packages: dict[str, str], began: float
) -> None:
    rootfs = temporary / ROOTFS
    build = ImageBuild(
        name=declaration.name,
        digest=digest,
        path=temporary,
        builder=declaration.builder,
        halt_signal=declaration.init_signal,
        systemd=(rootfs / "lib/systemd/systemd").exists(),
        created=time.time(),
        seconds=round(time.monotonic() - began, 2),
        size_bytes=disk_usage(rootfs),
        packages=tuple(sorted(packages.items())),
    )
    (temporary / MANIFEST).write_text(build.to_json())


def _sync(path: Path) -> None:
    """syncfs(2): the rename must not reach the disk before the files do."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)
