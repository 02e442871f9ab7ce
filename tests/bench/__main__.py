"""`python -m tests.bench [FIGURE…]`: measures, prints a table, writes build/bench.json.

What each figure is, docs/benchmarks.md says.
Everything happens in labs, namespaces and folders of its own, which are gone afterwards, also after a failure or an
interrupt. Exit status: 0 all was measured that can be here, 1 something failed, 2 no such figure, 130 interrupted.
Whether a goal is met is in the table, and changes nothing about the status.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from agent.containers.trees import remove_tree
from agent.kernel.namespaces import delete_namespace, namespace_names
from tests.bench.figure import Figure, Goal, make_document, make_table, make_unmeasured

#: In the order of the table. Each has FIGURES, and measure(wanted, folder), which yields them.
MODULES = (
    "cluster",
    "scale",
    "containers",
    "verify",
    "compiling",
    "vlan",
    "ipip",
    "natbox",
    "natbox_flat",
    "natbox_add",
)
BUILD = Path("build")
#: On the file system that containers are made on.
SCRATCH = Path("/var/lib/caas")
Measure = Callable[[frozenset[str], Path], Iterator[Figure]]


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    names: tuple[str, ...]
    measure: Measure


@dataclass(slots=True)
class Results:
    """The figures so far, and whether anything failed."""

    figures: list[Figure] = field(default_factory=list)
    failed: bool = False
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, group: Group, wanted: frozenset[str]) -> None:
        """Measure what of *group* is *wanted*. A failure is told, and the other groups go on."""
        began = time.monotonic()
        names = [name for name in group.names if name in wanted]
        print(f"{', '.join(names)} …", file=sys.stderr, flush=True)
        try:
            with scratch() as folder:
                for figure in group.measure(frozenset(names), folder):
                    self.figures.append(figure)
        except Exception as exc:
            self.failed = True
            why = f"{type(exc).__name__}: {exc}"
            print(f"error: {', '.join(names)}: {why}", file=sys.stderr, flush=True)
            there = {figure.name for figure in self.figures}
            first = why.strip().splitlines()[0][:200]
            self.figures += [
                make_unmeasured(name, unit="", goal=Goal(), why=first) for name in names if name not in there
            ]
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def text(self) -> str:
        """The machine and the table."""
        gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
        about = f"{os.cpu_count()} cores, {gibibytes:.0f} GiB, Linux {os.uname().release}"
        return f"{about}; load when it began {self.load:.1f}\n\n{make_table(self.figures)}"

    def write(self) -> None:
        """build/bench.json and the same for people, build/bench.txt."""
        BUILD.mkdir(exist_ok=True)
        for path, text in (("bench.json", make_document(self.figures)), ("bench.txt", self.text())):
            temporary = BUILD / f"{path}.new"
            temporary.write_text(text)
            temporary.replace(BUILD / path)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{os.getpid()}-", dir=SCRATCH))
    try:
        yield folder
    finally:
        remove_tree(folder)
        with contextlib.suppress(OSError):  # others have something in it
            SCRATCH.rmdir()


def load_groups() -> tuple[Group, ...]:
    """Every group."""
    loaded = [importlib.import_module(f"tests.bench.{name}") for name in MODULES]
    return tuple(Group(module.FIGURES, module.measure) for module in loaded)


def main(words: Iterable[str]) -> int:
    """The exit status."""
    groups = load_groups()
    known = [name for group in groups for name in group.names]
    wanted = frozenset(words) or frozenset(known)
    if unknown := sorted(wanted.difference(known)):
        print(f"error: no figure {', '.join(unknown)}\nhint: {' '.join(known)}", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("error: the bench needs root: it makes namespaces and containers", file=sys.stderr)
        return 1
    results = Results()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        for group in groups:
            if not wanted.isdisjoint(group.names):
                results.add(group, wanted)
    except KeyboardInterrupt:
        print("interrupted: nothing was written; what was made is gone", file=sys.stderr)
        return 130
    finally:
        _remove_namespaces()
    results.write()
    print(results.text(), end="")
    return 1 if results.failed else 0


def _remove_namespaces() -> None:
    """What an interrupt left between a namespace's making and its being written down: their names have our pid."""
    ours = tuple(f"{prefix}{os.getpid()}-" for prefix in ("kern", "nbt"))
    for name in namespace_names():
        if name.startswith(ours):
            delete_namespace(name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: what follows is the removal of what was made, which must not be cut off."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[2])
    sys.exit(main(sys.argv[1:]))
