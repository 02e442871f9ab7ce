"""How much memory a container's processes take: their proportional set sizes (PSS, proc(5): smaps_rollup)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KSM = Path("/sys/kernel/mm/ksm")
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Container:
    """Bytes of each process in it: (name, PSS)."""

    name: str
    processes: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(size for _, size in self.processes)


def read_pss(text: str) -> int:
    """Bytes, from the text of /proc/PID/smaps_rollup. ValueError where there is no such line."""
    found = _PSS.search(text)
    if found is None:
        raise ValueError("smaps_rollup has no Pss")
    return int(found[1]) * 1024


def containers_pss(inits: Mapping[str, int]) -> list[Container]:
    """Everything in the PID namespaces of the containers with these *inits*; AssertionError for one with no compute."""
    names = {os.stat(PROC / str(init) / "ns/pid").st_ino: name for name, init in inits.items()}
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in inits}
    for pid in filter(str.isdigit, os.listdir(PROC)):
        try:
            name = names.get(os.stat(PROC / pid / "ns/pid").st_ino)
            if name is not None:
                comm = (PROC / pid / "comm").read_text().strip()
                found[name].append((comm, read_pss((PROC / pid / "smaps_rollup").read_text())))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile; or nobody may look at it, as at some machines' process 1: none of ours
    for name, processes in found.items():
        assert any(comm.startswith("nova-compute") for comm, _ in processes), f"no nova-compute in {name}"
    return [Container(name, tuple(processes)) for name, processes in found.items()]


def describe_containers(containers: Sequence[Container], *, count: int = 8) -> tuple[str, ...]:
    """The largest kinds of processes: MB of all of a kind, shared out to the containers."""
    sums: dict[str, int] = {}
    for container in containers:
        for name, size in container.processes:
            sums[name] = sums.get(name, 0) + size
    largest = sorted(sums.items(), key=lambda item: -item[1])[:count]
    return tuple(f"{size / len(containers) / 1e6:6.1f} MB  {name}" for name, size in largest)


def saved_by_merging() -> tuple[str, ...]:
    """What KSM saves on the whole machine, where it runs."""
    try:
        if (KSM / "run").read_text().strip() != "1":
            return ()
        pages = int((KSM / "pages_sharing").read_text())
    except OSError:
        return ()
    return (f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.2f} GB saved by merging, on the whole machine",)
