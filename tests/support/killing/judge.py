"""What a lab's machines have, taken from outside: their network, files, mounts, cgroups and what runs in containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.demonstration import ROOT
from tests.support.fingerprint import Fingerprint, difference
from tests.support.killing.lab import MACHINES, KillLab

#: A number that grows with every change, and says nothing of what there is.
_GENERATION = re.compile(r'^\s*"generation": .*$', re.MULTILINE)
#: The log of liblxc, and what is in a container beside what we put there.
_OWN_WILL = ("/delta/", "/rootfs/", "/lxc.log")


def take(lab: KillLab) -> Fingerprint:
    """All machines of *lab* as they are now."""
    sections: dict[str, set[str]] = {}
    looks = {name: _start_look(lab, name) for name in MACHINES}
    for name, look in looks.items():
        said, _ = look.communicate(timeout=60)
        assert look.returncode == 0, f"{name}: it cannot be looked at: {said!r}"
        for section, lines in json.loads(said).items():
            sections.setdefault(section, set()).update(f"{name}: {line}" for line in lines)
    for name in MACHINES:
        sections.setdefault("containers", set()).update(f"{name}: {one} runs" for one in running(lab, name))
        sections.setdefault("cgroups", set()).update(str(path) for path in lab.cgroups(name))
    sections["files"] = set(_files(lab))
    sections["saved"] = set(_saved(lab))
    sections["mounts"] = {
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if _concerns(lab, line)
    }
    return Fingerprint({name: frozenset(lines) for name, lines in sections.items()})


def wait_same(before: Fingerprint, lab: KillLab, *, seconds: float) -> str:
    """What differs from *before*, "" as soon as nothing does; looked at again for *seconds*."""
    end = time.monotonic() + seconds
    while left := difference(before, take(lab)):
        if time.monotonic() > end:
            return left
        time.sleep(0.2)
    return ""


def running(lab: KillLab, machine: str) -> dict[str, int]:
    """The containers of *machine* in which something runs -> the lowest PID there, which is that of init."""
    found: dict[str, int] = {}
    for folder in lab.cgroups(machine):
        base = next(number for number, part in enumerate(folder.parts) if part.startswith("caas-"))
        name = "".join(folder.parts[base + 1 : base + 2])
        if not name or name.endswith(".monitor"):
            continue
        with contextlib.suppress(OSError):
            pids = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
            if pids:
                found[name] = min(*pids, found.get(name, sys.maxsize))
    return found


def ping(pid: int, address: str) -> str:
    """Ping *address* from the container with this init: "" where an answer comes, else what ping said."""
    argv = ["nsenter", "-t", str(pid), "-n", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", address]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "" if " 0% packet loss" in done.stdout or done.returncode == 0 else done.stdout + done.stderr


def _start_look(lab: KillLab, machine: str) -> subprocess.Popen[str]:
    argv = ["nsenter", f"--net=/run/netns/{lab.places.namespace(machine)}"]
    argv += [sys.executable, "-m", "tests.support.killing.look"]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _files(lab: KillLab) -> Iterator[str]:
    state = lab.places.state
    roots = [*(state / "machines" / name / "state" for name in MACHINES), lab.places.run / "machines"]
    for root in (*roots, Path("/run/lxc/lock") / state.relative_to("/"), Path("/sys/fs/bpf")):
        for folder, inner, names in os.walk(root):
            for name in (*inner, *names):
                path = f"{folder}/{name}"
                if not any(word in f"{path}/" for word in _OWN_WILL):
                    yield path


def _saved(lab: KillLab) -> Iterator[str]:
    for path in lab.places.state.glob("machines/*/state/desired/*.json"):
        with contextlib.suppress(FileNotFoundError):
            yield f"{path.relative_to(lab.places.state)} {_GENERATION.sub('', path.read_text())}"


def _concerns(lab: KillLab, mount: str) -> bool:
    return f"/labs/{lab.places.lab}/" in mount
