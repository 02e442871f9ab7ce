"""Removing folders that may have had something mounted in them: what is mounted is never removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from proto.errors import CaasError, Code

_OCTAL = re.compile(r"\\([0-7]{3})")


def mounts_below(path: Path) -> list[str]:
    """Mount points at or below *path* in this mount namespace, deepest first (proc(5): mountinfo, field 5)."""
    prefix = os.path.realpath(path)
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4])
        if point == prefix or point.startswith(prefix + "/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def unmount_below(path: Path) -> int:
    """Unmount what is mounted at or below *path*; returns how many. BUSY where one stays."""
    mounts = mounts_below(path)
    for mount in mounts:
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if mounts and (left := mounts_below(path)):
        raise CaasError(Code.BUSY, f"{path}: still mounted: {', '.join(left)}", hint=f"umount {left[0]}")
    return len(mounts)


def remove_tree(path: Path) -> None:
    """Remove *path* with its mounts; already gone is success. BUSY where a mount stays: then nothing is removed."""
    unmount_below(path)
    if path.exists():
        shutil.rmtree(path)


def disk_usage(root: Path) -> int:
    """Bytes that *root* takes on disk; files with several names count once."""
    seen: set[int] = set()
    total = 0
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            if status.st_nlink == 1 or status.st_ino not in seen:
                total += status.st_blocks * 512
                seen.add(status.st_ino)
    return total
