"""`python -m tests.support.simulation [--first SEED] [--seeds N] [--jobs N] [--trace]`: many seeds, or one's trace."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.support.simulation.run import run_seed

REPLAY = "python -m tests.support.simulation --seeds 1 --trace --first"


def main() -> int:
    """0 where every seed kept every promise, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (one for each CPU)")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    options = parser.parse_args()
    began, failed = time.monotonic(), []
    # A new process now and then: the collector does not run while a seed is played.
    with multiprocessing.get_context("spawn").Pool(min(options.jobs, options.seeds), maxtasksperchild=20) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for outcome in pool.imap(run_seed, seeds, chunksize=10):
            if options.trace:
                print("\n".join(outcome.trace))
            if outcome.violations:
                failed.append(outcome.seed)
                for violation in outcome.violations:
                    print(f"seed {outcome.seed}: {violation}")
                print(f"  replay: {REPLAY} {outcome.seed}", flush=True)
    seconds = time.monotonic() - began
    rate = options.seeds / seconds * 60
    print(f"simulation: {options.seeds} seeds in {seconds:.0f} s ({rate:.0f} a minute); failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have one order: a seed is one run
        os.execve(
            sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"}
        )
    sys.exit(main())
