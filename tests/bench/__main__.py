"""`python -m tests.bench [FIGURE…]`: measures, prints a table, writes build/bench.json.

What each figure is, docs/benchmarks.md says.
Everything happens in labs, namespaces and folders of its own, which are gone afterwards, also after a failure or an
interrupt. Exit status: 0 all was measured that can be here, 1 something failed, 2 no such figure, 130 interrupted.
Whether a goal is met is in the table, and changes nothing about the status.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from agent.containers.trees import remove_tree
from agent.kernel.namespaces import delete_namespace, namespace_names
from tests.bench.emulated import NoGuestError, measure_emulated
from tests.bench.figure import Figure, make_document, make_table, make_unmeasured
from tests.bench.groups import Group, load_groups

BUILD = Path("build")
#: On the file system that containers are made on.
SCRATCH = Path("/var/lib/caas")


@dataclass(slots=True)
class Results:
    """The figures so far, and whether anything failed."""

    figures: list[Figure] = field(default_factory=list)
    failed: bool = False
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, group: Group, wanted: frozenset[str]) -> None:
        """Measure what of *group* is *wanted*. A failure is told, and the other groups go on."""
        names = [name for name in group.names if name in wanted]
        with told(names):
            try:
                with scratch() as folder:
                    for figure in group.measure(frozenset(names), folder):
                        self.figures.append(figure)
            except Exception as exc:
                self._fail(names, f"{type(exc).__name__}: {exc}")

    def add_emulated(self) -> None:
        """Measure on Debian's kernel what needs a device that this one lacks. Without a guest they stay as they are,
        and say that, too.
        """
        names = [one.name for one in self._lacking()]
        if not names:
            return
        failed: Mapping[str, str]
        with told(names, "on Debian's kernel, under emulation"):
            try:
                with scratch() as folder:
                    found, failed = measure_emulated(names, folder)
                self._put(found)
            except NoGuestError as exc:
                failed = {}
                self._put({one.name: replace(one, against=f"{one.against}; {exc}") for one in self._lacking()})
            except Exception as exc:
                failed = dict.fromkeys(names, f"{type(exc).__name__}: {exc}")
        for name, why in failed.items():
            self._put({name: make_unmeasured(name, unit="", goal=None, why=_first_line(why))})
            self._fail([name], why)

    def _lacking(self) -> list[Figure]:
        return [one for one in self.figures if one.lacks]

    def _put(self, found: Mapping[str, Figure]) -> None:
        """In the places of those with their names."""
        self.figures = [found.get(one.name, one) for one in self.figures]

    def _fail(self, names: list[str], why: str) -> None:
        self.failed = True
        print(f"error: {', '.join(names)}: {why}", file=sys.stderr, flush=True)
        there = {figure.name for figure in self.figures}
        lost = [name for name in names if name not in there]
        self.figures += [make_unmeasured(name, unit="", goal=None, why=_first_line(why)) for name in lost]

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
def told(names: Iterable[str], where: str = "") -> Iterator[None]:
    """Say what is measured, and how long it took."""
    began = time.monotonic()
    print(f"{', '.join(names)} {where}".rstrip() + " …", file=sys.stderr, flush=True)
    yield
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


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
        results.add_emulated()
    except KeyboardInterrupt:
        print("interrupted: nothing was written; what was made is gone", file=sys.stderr)
        return 130
    finally:
        _remove_namespaces()
    results.write()
    print(results.text(), end="")
    return 1 if results.failed else 0


def _first_line(why: str) -> str:
    return why.strip().splitlines()[0][:200]


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
