"""Seeds: the root file system of a container as it was at one moment, cleaned, for all its clones (docs/adr/0009).

A source that runs is frozen while it is read, and not for longer: no service of it notices. A seed lies beside the
containers; who asked for it removes it.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from agent.containers.freezing import Freezer
from agent.containers.image_clean import clean_clone, read_originals
from agent.containers.inside import work_inside
from agent.containers.record import Record, read_record, write_record
from agent.containers.rootfs import Storage, copy_rootfs, writable_root
from proto.errors import CaasError, Code

SEED = ".seed-"


def take_seed(place: Path, seed: Path, record: Record, freezer: Freezer | None) -> float:
    """Make *seed* from the container in *place*; returns for how many seconds that was held still.

    *freezer*: of a container that runs. NO_ROOM, BUSY, UNSUPPORTED or FAILED; the caller removes what is left.
    """
    seed.mkdir(mode=0o700)
    frozen = 0.0
    if freezer is None:
        copy_rootfs(place, seed, record.storage)
    else:
        began = time.monotonic()
        with freezer.still(place.name):
            copy_rootfs(place, seed, record.storage)
        frozen = time.monotonic() - began
    originals = () if record.storage is Storage.OVERLAY else read_originals(record.image_rootfs)
    root = writable_root(seed, record.storage)
    work_inside(root, lambda: clean_clone(Path("/"), originals), owner=f"a copy of container {place.name}")
    write_record(seed, record)
    return frozen


def check_seed(seed: Path, record: Record) -> None:
    """CONFLICT unless *seed* was taken of a container with the image build and the storage of *record*."""
    source = read_record(seed)
    if (source.digest, source.storage) != (record.digest, record.storage):
        raise CaasError(
            Code.CONFLICT,
            f"container {record.container.name}: {source.container.name} was made from {source.container.image} "
            f"{source.digest} ({source.storage.value}), not {record.container.image} {record.digest} "
            f"({record.storage.value})",
            hint="clone a container of the same image build",
        )


def sync_filesystem(path: Path) -> None:
    """Have what was written to *path*'s file system on its disk (syncfs(2)): a clone's files were so in its source."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)
