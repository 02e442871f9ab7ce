"""`python -m tests.support.lab_driver up|down|status …`: `caas lab` with stand-ins for its daemons (lab_daemon.py).

LAB_TERM_WAIT in the environment is how many seconds a process has to end when it is asked to (default: as for users).
Errors are printed as `CODE: MESSAGE`, with the exit status of the command line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from coordinator.lab import daemons, processes
from coordinator.lab.commands import lab
from proto.errors import CaasError

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    for part in daemons.MODULES:
        daemons.MODULES[part] = "tests.support.lab_daemon"
    processes.CLEAN["PYTHONPATH"] = str(ROOT)
    processes.TERM_WAIT = float(os.environ.get("LAB_TERM_WAIT", processes.TERM_WAIT))
    try:
        lab.main(args=sys.argv[1:], standalone_mode=False)
    except CaasError as exc:
        print(f"{exc.code.value}: {exc.message}\nhint: {exc.hint}", file=sys.stderr)
        return exc.code.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
