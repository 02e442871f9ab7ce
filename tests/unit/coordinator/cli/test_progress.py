"""Both displays from one stream of events."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console

from coordinator.cli.output import show_seconds, show_size
from coordinator.cli.progress import LiveDisplay, follow
from proto import coordinator_pb2 as pb

E = pb.Event
EVENTS = [
    E(id="a", title="make a", state=E.PENDING, phase="hosts"),
    E(id="b", title="make b", state=E.PENDING, phase="hosts"),
    E(id="a", title="make a", state=E.STARTED, phase="hosts"),
    E(id="b", title="make b", state=E.STARTED, phase="hosts"),
    E(id="a", title="make a", state=E.DONE, seconds=2.0, phase="hosts"),
    E(id="b", title="make b", state=E.FAILED, message="it broke", phase="hosts"),
    E(id="c", title="make c", state=E.SKIPPED, phase="nova"),
    E(state=E.SUMMARY, document='{"ok": false}'),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _ticks() -> Iterator[float]:
    yield from range(100)


def test_what_a_stream_comes_to() -> None:
    ticks = _ticks()
    outcome = follow(EVENTS, stream=io.StringIO(), clock=lambda: next(ticks))
    assert (outcome.done, outcome.skipped, outcome.failed) == (1, 1, ["make b"])
    assert outcome.phases == {"hosts": 5, "nova": 0}
    assert (outcome.seconds, outcome.document) == (9, '{"ok": false}')


def test_plain_lines() -> None:
    stream = io.StringIO()
    follow(EVENTS, stream=stream)
    assert stream.getvalue() == (
        "== hosts\n  .... make a\n  .... make b\n  done make a  (2.0 s)\n  FAIL make b: it broke\n"
        "== nova\n  skip make c\n"
    )


def test_on_a_terminal_what_ended_stays_and_spinners_go() -> None:
    stream = Terminal()
    outcome = follow(EVENTS, stream=stream)
    text = stream.getvalue()
    assert outcome.failed == ["make b"]
    for line in ("hosts", "make a  (2.0 s)", "make b: it broke", "make c"):
        assert line in text


def test_a_live_display_shows_what_is_under_way_and_how_much_is_to_come() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=10)
    display = LiveDisplay(console)
    for event in EVENTS[:3]:
        display.show(event)
    console.print(display._render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "make a  0.0 s" in text.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "1 under way, 0 ended, 1 to come" in text


def test_a_live_display_fits_its_terminal_whatever_is_under_way() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=10)
    display = LiveDisplay(console)
    for number in range(100):
        display.show(E(id=str(number), title=f"step {number}", state=E.STARTED))
    assert len(console.render_lines(display._render())) <= 9


def test_a_title_with_brackets_is_shown_as_it_is() -> None:
    stream = Terminal()
    follow([E(id="x", title="[red]x[/]", state=E.DONE)], stream=stream)
    assert "[red]x[/]" in stream.getvalue()


def test_durations_and_sizes() -> None:
    assert [show_seconds(value) for value in (0.04, 9.96, 36.4, 125.9)] == ["0.0 s", "10.0 s", "36 s", "2 min 05 s"]
    assert [show_size(value) for value in (0, 148 << 20)] == ["-", "148 MiB"]
