"""`python -m tests.support.small_coordinator …`: caas-coordinator whose containers are busybox's, without nova.

All but nova is real: what takes seconds with it takes a fraction of one. As a program with `lab`, it is `caas lab` with
this one as the lab's coordinator.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import coordinator.compiling.compile
from coordinator import bringup, preparing, status
from coordinator.keepsake import KeepSecrets
from coordinator.known import keeper_of

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "test-busybox"


def _secrets_only(file: Any, hosts: Any, shells: Any, secrets: Any, **_: Any) -> tuple[KeepSecrets, ...]:
    return (KeepSecrets(shells[keeper_of(file)], secrets),)


async def _every_compute(shell: object) -> dict[str, Any]:
    """As nova would say: there is none, and nobody waits for it."""
    return {"services": [], "computes_up": 64}


def main() -> int:
    coordinator.compiling.compile.image_of = lambda spec: IMAGE
    preparing.make_cluster_steps = _secrets_only  # type: ignore[attr-defined]
    bringup.nova_status = status.nova_status = _every_compute  # type: ignore[attr-defined]
    if sys.argv[1:2] == ["lab"]:
        return _lab(sys.argv[2:])
    from coordinator.rpc.main import main as serve

    return serve()


def _lab(words: list[str]) -> int:
    from coordinator.lab import daemons, processes
    from coordinator.lab.commands import lab

    daemons.MODULES["coordinator"] = __spec__.name
    processes.CLEAN["PYTHONPATH"] = str(ROOT)
    lab.main(args=words, standalone_mode=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
