"""What images and clones must not carry: identities, secrets, and what only takes room.

`clean` removes all that is known to appear by itself in an image. `check_no_secrets` then looks, more widely, for
what is left: an image is the start of many clusters, and two clusters share no secret. `clean_clone` makes of a
copy of a container one that has never been started.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proto.errors import CaasError, Code

#: What makes a machine itself: removed from images and from clones. Globs of pathlib, relative to the root.
IDENTITIES = (
    "etc/ssh/ssh_host_*",
    "var/lib/rabbitmq/.erlang.cookie",
    "var/lib/rabbitmq/mnesia/*",
    "root/.erlang.cookie",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/keystone/fernet-keys/*",
    "etc/keystone/credential-keys/*",
    "var/lib/nova/compute_id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/dbus/machine-id",
    "var/log/journal/*",
)
#: What takes room, or only has a meaning on the machine that built the image.
RUBBISH = (
    "var/lib/apt/lists/*",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "usr/sbin/policy-rc.d",
    "run/*",
    "tmp/*",
    "var/tmp/*",
    "root/.bash_history",
    "etc/*-",
)
#: What a container that runs leaves, and its clone must not find: removed from clones, beside the identities.
LEFTOVERS = (
    "run/*",
    "tmp/*",
    "var/tmp/systemd-private-*",
    "var/lib/dhcp/*.leases",
    "var/lib/systemd/coredump/*",
    # nova's own state (state_path): what it runs, its locks. DevStack has it in another place.
    "var/lib/nova/instances/*",
    "var/lib/nova/tmp/*",
    "opt/stack/data/nova/compute_id",
    "opt/stack/data/nova/instances/*",
    "etc/caas/secrets.json",
    "etc/systemd/system/*.wants/devstack@n-cpu*.service",
)
#: What lets services start with the configuration that is there (see note-start). The steps write it again; what
#: has the same configuration everywhere need not wait for them.
READY = "etc/caas/ready/*"
SAME_EVERYWHERE = ("ssh",)
#: How the source reached its network: in a clone as in the image.
NETWORK = (
    "etc/hosts",
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
    "etc/netplan/*",
    "etc/systemd/network/*",
    "etc/udev/rules.d/70-persistent-net.rules",
)
#: Made empty: a container's own is written at its start, and systemd makes a machine-id for an empty file.
EMPTIED = ("etc/machine-id", "etc/hostname")
#: Emptied in images alone: a clone is on its source's host, and asks the same name servers.
RESOLVER = "etc/resolv.conf"

#: Any of these, left after cleaning and not empty, fails the build.
SECRET_FILES = (
    "etc/ssh/ssh_host_*_key",
    "**/.erlang.cookie",
    "etc/ssl/private/*",
    "etc/keystone/fernet-keys/*",
    "etc/keystone/credential-keys/*",
    "var/lib/*/compute_id",
    "var/lib/*/fernet-keys/*",
    "var/lib/*/.ssh/*",
    "root/.ssh/*",
    "root/.my.cnf",
    "root/*openrc*",
    "root/**/clouds.yaml",
    "etc/openstack/clouds.yaml",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/mysql/*.pem",
)
#: Where file contents are read in search of secrets, and how large such a file may be (bytes).
SEARCHED = ("etc", "root", "var/lib", "home", "srv")
SEARCHED_SIZE = 256 * 1024
#: Not read: packages' own scripts, the same for everybody, which assign to variables called `password`.
NOT_SEARCHED = "var/lib/dpkg/info"
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"|^[ \t]*(?:admin_token|metadata_proxy_shared_secret)[ \t]*=[ \t]*\S"
    rb"|^dbc_dbpass='[^'\n]"
    rb"|^[ \t]*(?:password|connection_password)[ \t]*=[ \t]*(?!None\b|<)\S"
    rb"|^[ \t]*(?:connection|transport_url)[ \t]*=[ \t]*\w[\w+]*://[^\s:/@]+:[^\s@]+@",
    re.MULTILINE,
)


def clean(root: Path) -> None:
    """Remove identities, caches and logs from *root*; running it twice changes nothing more."""
    clean_identities(root)
    _empty(root / RESOLVER)
    _remove_all(root, RUBBISH)
    _remove_dangling(root / "etc/ssl/certs")
    _empty_logs(root)


def _empty_logs(root: Path) -> None:
    for folder, _, files in os.walk(root / "var/log"):
        for file in files:
            path = Path(folder, file)
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)  # its owner and mode were the package's choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A file of an image as it can be written again; a symlink has its target as its content."""

    path: str
    content: bytes
    symlink: bool
    mode: int
    owner: tuple[int, int]


def read_originals(image_rootfs: Path) -> tuple[Original, ...]:
    """What an image has of NETWORK."""
    found = []
    for path in (path for pattern in NETWORK for path in image_rootfs.glob(pattern)):
        status, symlink = path.lstat(), path.is_symlink()
        if symlink or path.is_file():
            content = os.readlink(path).encode() if symlink else path.read_bytes()
            name = str(path.relative_to(image_rootfs))
            owner = (status.st_uid, status.st_gid)
            found.append(
                Original(path=name, content=content, symlink=symlink, mode=stat.S_IMODE(status.st_mode), owner=owner)
            )
    return tuple(found)


def clean_clone(root: Path, originals: tuple[Original, ...]) -> None:
    """Make *root*, a container's own root file system, that of one that never ran. Symlinks are followed.

    *originals* are written back; none for an overlay's upper folder, where what is removed shows the lower's again.
    """
    _remove_all(root, (*LEFTOVERS, *NETWORK))
    for path in root.glob(READY):
        if path.name not in SAME_EVERYWHERE:
            _remove(path)
    clean_identities(root)
    _empty_logs(root)
    for original in originals:
        path = root / original.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if original.symlink:
            path.symlink_to(original.content.decode())
        else:
            path.write_bytes(original.content)
            path.chmod(original.mode)
        os.chown(path, *original.owner, follow_symlinks=False)


def clean_identities(root: Path) -> None:
    """Remove from *root* what makes a machine itself, so that each container made from it gets its own.

    In an overlay's upper folder what is removed shows the lower's again, which was cleaned when it was built.
    """
    _remove_all(root, IDENTITIES)
    for name in EMPTIED:
        _empty(root / name)


def _empty(path: Path) -> None:
    if path.parent.is_dir():
        path.unlink(missing_ok=True)  # resolv.conf may be a symlink out of the root file system
        path.touch()
        path.chmod(0o444 if path.name == "machine-id" else 0o644)


def _remove_all(root: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in list(root.glob(pattern)):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_dangling(folder: Path) -> None:
    """OpenSSL's hash links to the snakeoil certificate would dangle. Relative links only."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_symlink() and not str(path.readlink()).startswith("/") and not path.exists():
            path.unlink()


def find_secrets(root: Path) -> tuple[str, ...]:
    """What in *root* looks like a secret or an identity, as paths in the image, with why."""
    found = {}
    for pattern in SECRET_FILES:
        for path in root.glob(pattern):
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                found[path] = "is a secret or an identity"
    for path in _searched(root):
        with contextlib.suppress(OSError):
            if path not in found and (match := _SECRET_TEXT.search(path.read_bytes())):
                found[path] = f"contains {match.group().split(b'=')[0].decode().strip().strip('-')!r} with a value"
    return tuple(f"/{path.relative_to(root)} {why}" for path, why in sorted(found.items()))


def _searched(root: Path) -> Iterator[Path]:
    for start in SEARCHED:
        for folder, _, files in os.walk(root / start):
            if Path(folder) == root / NOT_SEARCHED:
                continue
            for file in files:
                path = Path(folder, file)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= SEARCHED_SIZE:
                    yield path


def check_no_secrets(root: Path, *, image: str) -> None:
    """FAILED, with every place, where *root* holds something that looks like a secret."""
    if found := find_secrets(root):
        raise CaasError(
            Code.FAILED,
            f"image {image}: it would carry secrets: " + "; ".join(found),
            hint="remove them in a script of the declaration (run:)",
        )
