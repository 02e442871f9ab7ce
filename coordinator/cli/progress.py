"""Live progress from one stream of events: spinners and seconds on a terminal, plain lines elsewhere.

What has ended is printed once and stays; below it, on a terminal, what is under way. So the screen never needs more
lines than there is work at once, however many steps there are.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TextIO

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from coordinator.cli.output import Document, show_seconds
from proto import coordinator_pb2 as pb

_WORDS = {
    pb.Event.DONE: ("done", "✓", "green"),
    pb.Event.SKIPPED: ("skip", "-", "dim"),
    pb.Event.FAILED: ("FAIL", "✗", "bold red"),
}


@dataclass(slots=True)
class Outcome:
    """What a stream of events came to. `phases` is seconds by phase, in the order in which they began."""

    document: str = ""
    failed: list[str] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Display(Protocol):
    """Shows one event."""

    def show(self, event: pb.Event) -> None: ...


def follow(
    events: Iterable[pb.Event], *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Outcome:
    """Show *events* on *stream* (standard error) until they end; returns what they came to."""
    outcome = Outcome()
    first: dict[str, float] = {}
    began = clock()
    with _open_display(stream or sys.stderr) as display:
        for event in events:
            now = clock()
            if event.phase:
                started = first.setdefault(event.phase, now)
                outcome.phases[event.phase] = now - started
            _count(event, outcome)
            display.show(event)
    outcome.seconds = clock() - began
    return outcome


def _count(event: pb.Event, outcome: Outcome) -> None:
    match event.state:
        case pb.Event.DONE:
            outcome.done += 1
        case pb.Event.SKIPPED:
            outcome.skipped += 1
        case pb.Event.FAILED:
            outcome.failed.append(event.title or event.id)
        case pb.Event.SUMMARY:
            outcome.document = event.document


def _open_display(stream: TextIO) -> AbstractContextManager[Display]:
    if stream.isatty():
        return LiveDisplay(Console(file=stream))
    return nullcontext(PlainDisplay(stream))


class PlainDisplay:
    """A line when something begins, and one when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase = ""

    def show(self, event: pb.Event) -> None:
        if event.phase and event.phase != self._phase:
            self._phase = event.phase
            self._print(f"== {event.phase}")
        if event.state == pb.Event.STARTED:
            self._print(f"  .... {event.title or event.id}")
        elif event.state == pb.Event.NOTE:
            self._print(f"  note {event.message}")
        elif event.state in _WORDS:
            self._print(f"  {_WORDS[event.state][0]} {describe(event)}")

    def _print(self, line: str) -> None:
        click.echo(line, file=self._stream)


class LiveDisplay:
    """A spinner with running seconds for everything under way, above it what has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[str, tuple[str, float]] = {}
        self._pending: set[str] = set()
        self._ended = 0
        self._phase = ""
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.clear()
        self._live.__exit__(kind, value, trace)

    def show(self, event: pb.Event) -> None:
        if event.phase and event.phase != self._phase:
            self._phase = event.phase
            self._console.print(Text(event.phase, style="bold"))
        key = event.id or event.title
        if event.state == pb.Event.PENDING:
            self._pending.add(key)
        elif event.state == pb.Event.STARTED:
            self._pending.discard(key)
            self._running[key] = (event.title or event.id, time.monotonic())
        elif event.state == pb.Event.NOTE:
            self._console.print(Text(f"  {event.message}", style="dim"))
        elif event.state in _WORDS:
            self._pending.discard(key)
            self._running.pop(key, None)
            self._ended += 1
            _, sign, style = _WORDS[event.state]
            self._console.print(Text.assemble((f"  {sign} ", style), describe(event)))
        self._live.refresh()

    def _render(self) -> RenderableType:
        return Group(*self._lines())

    def _lines(self) -> Iterator[RenderableType]:
        now = time.monotonic()
        room = max(self._console.height - 4, 3)
        spin = self._spinner.render(self._console.get_time())
        for title, began in list(self._running.values())[:room]:
            sign = spin if isinstance(spin, Text) else Text("…")
            yield Text.assemble("  ", sign, f" {title}  ", (show_seconds(now - began), "dim"))
        if self._running:
            waiting = f", {len(self._pending)} to come" if self._pending else ""
            yield Text(f"  {len(self._running)} under way, {self._ended} ended{waiting}", style="dim")


def describe(event: pb.Event) -> str:
    """An event that ended something, in one line: title, seconds, message."""
    text = event.title or event.id
    if event.seconds >= 0.05:
        text += f"  ({show_seconds(event.seconds)})"
    if event.message:
        text += f": {event.message}"
    return text


def parse_document(outcome: Outcome) -> Document:
    """The summary's document; empty where there was none."""
    found = json.loads(outcome.document) if outcome.document else {}
    return found if isinstance(found, dict) else {}
