"""How much memory a container's processes take: their proportional set sizes (PSS, proc(5): smaps_rollup)."""

from __future__ import annotations

import os
import re
from pathlib import Path

PROC = Path("/proc")
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


def read_pss(text: str) -> int:
    """Bytes, from the text of /proc/PID/smaps_rollup. ValueError where there is no such line."""
    found = _PSS.search(text)
    if found is None:
        raise ValueError("smaps_rollup has no Pss")
    return int(found[1]) * 1024


def container_pss(init: int) -> dict[str, int]:
    """Bytes by process ("nova-compute 4711") of everything in the PID namespace of the container's *init*."""
    namespace = os.stat(PROC / str(init) / "ns/pid").st_ino
    found = {}
    for pid in filter(str.isdigit, os.listdir(PROC)):
        try:
            if os.stat(PROC / pid / "ns/pid").st_ino == namespace:
                name = (PROC / pid / "comm").read_text().strip()
                found[f"{name} {pid}"] = read_pss((PROC / pid / "smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile; or nobody may look at it, as at some machines' process 1: none of ours
    return found
