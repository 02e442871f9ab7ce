"""Starts the child process of a burst (burst_program) and waits for its report.

A process of its own, since it enters the containers' network namespaces: a server never does (setns(2) moves a thread,
and this one has many).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proto.errors import CaasError, Code

ROOT = Path(__file__).resolve().parents[2]
#: Seconds above the burst itself: an interpreter has to start, on a machine that may be busy.
PATIENCE = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A container that asks. *netns* is its network namespace: a name that `ip netns` lists, or a path."""

    hostname: str
    netns: str
    address: str
    mtu: int
    targets: tuple[str, ...]
    askers: int
    link: str = "eth0"


def run_burst(askers: Sequence[Asker], *, settle: float, seconds: float, netns: str | None = None) -> dict[str, Any]:
    """Ask from all *askers* at once, *settle* seconds from now, and listen for at most *seconds* after that.

    *netns* is the host's own namespace, None where that is the caller's. Returns the program's report: {"reports":
    {HOSTNAME: {...}}, "failures": {HOSTNAME: WHY}, "reverse_path": N, "neighbour_overflows": N, "outer": [...],
    "tagged": [...]}.
    TIMEOUT or FAILED where the process gives none.
    """
    job = {"askers": [asdict(asker) for asker in askers], "settle": settle, "seconds": seconds, "netns": netns or ""}
    # -S: what it imports needs no site-packages, and looking for them takes longer than all the rest of its start.
    argv = [sys.executable, "-S", "-m", "agent.kernel.burst_program"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
    limit = settle + seconds + PATIENCE
    try:
        # No preexec_fn: subprocess then uses vfork, which runs none of gRPC's fork handlers.
        done = subprocess.run(
            argv,
            input=json.dumps(job).encode(),
            capture_output=True,
            env=environment,
            cwd="/",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CaasError(Code.TIMEOUT, f"the burst gave no report within {limit:g} s") from exc
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise CaasError(
            Code.FAILED, f"the burst failed: {last[0]}", hint="the agent needs CAP_SYS_ADMIN and CAP_NET_RAW"
        )
    report: dict[str, Any] = json.loads(done.stdout)
    return report
