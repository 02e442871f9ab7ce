"""Figures that need a device which this machine's kernel does not make: on Debian's own kernel, under emulation.

The guest's clock goes by the instructions that its one CPU has executed: times mean nothing, the ratio of a pair is
that of the instructions for a packet or byte, and the same whatever else this machine does. Outside, `measure_emulated`
compiles what is needed there and starts the guest. Inside, `python -m tests.bench.emulated FOLDER PAIRS FIGURE…` says a
line for each figure; *FOLDER* is read-only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.bench import natbox
from tests.bench.figure import Figure, read_figure
from tests.bench.groups import load_groups
from tests.bench.traffic import Traffic
from tests.support.crossing import make_tag
from tests.support.guest import ROOT, Guest, Machine

LOG = ROOT / "build" / "bench-guest.log"
#: Of runs, as long as natively by the guest's clock. They differ by some hundredths.
PAIRS = 5
#: QEMU: 2^2 ns for an instruction. While it waits, for files or a timer, its clock goes on as ours does.
MACHINE = Machine(cpus=1, qemu="-icount shift=2")
_SAID = re.compile(r"^=== (figure|failed) (\S+) (.*?)\s*$", re.MULTILINE)


class NoGuestError(Exception):
    """There is none on this machine; the message says why."""


def measure_emulated(names: Iterable[str], folder: Path) -> tuple[dict[str, Figure], dict[str, str]]:
    """The figures, and why those that are not among them failed. Works in *folder*. NoGuestError."""
    wanted = list(names)
    Traffic(folder)
    for vid in (natbox.VID, natbox.BARE_VID, natbox.DEVICE_VID):
        make_tag(folder, vid)
    pairs = os.environ.get("BENCH_PAIRS", str(PAIRS))
    guest = Guest({"bench": ["tests.bench.emulated", str(folder), pairs, *wanted]}, log=LOG, machine=MACHINE)
    try:
        said = guest.said()
    except AssertionError as exc:
        raise NoGuestError(str(exc)) from exc
    finally:
        guest.stop()
    return read_said(said, wanted)


def read_said(said: str, wanted: Iterable[str]) -> tuple[dict[str, Figure], dict[str, str]]:
    """What the guest *said* of those that were *wanted*."""
    found, failed = {}, {}
    for kind, name, rest in _SAID.findall(said):
        if kind == "figure":
            found[name] = read_figure(rest)
        else:
            failed[name] = rest
    silent = {name: f"the guest said nothing of it: {LOG}" for name in wanted if name not in found}
    return found, silent | failed


def main(folder: Path, wanted: frozenset[str]) -> int:
    """Inside the guest."""
    where = f"on Linux {os.uname().release} under emulation, the ratio is one of instructions"
    for group in load_groups():
        names = wanted.intersection(group.names)
        try:
            for figure in group.measure(names, folder) if names else ():
                names -= {figure.name}
                against = figure.against if figure.lacks else f"{figure.against}; {where}"
                print(f"\n=== figure {figure.name} {replace(figure, against=against).line()}", flush=True)
        except Exception as exc:
            for name in names:
                print(f"\n=== failed {name} {type(exc).__name__}: {str(exc).strip()}", flush=True)
    return 0


if __name__ == "__main__":
    os.environ["BENCH_PAIRS"] = sys.argv[2]
    sys.exit(main(Path(sys.argv[1]), frozenset(sys.argv[3:])))
