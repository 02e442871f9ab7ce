"""What is told while work goes on: one stream of events for people, programs and the journal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from uuid import uuid4

from coordinator.journal import Journal
from proto import coordinator_pb2 as pb
from proto.errors import CaasError

Emit = Callable[[pb.Event], None]


class PutOff(Exception):  # noqa: N818  it is no error
    """Raised in a step's block: it was not done, and that is no failure. Told as left out, with the words."""


@dataclass(slots=True)
class Progress:
    """Tells what begins and ends, and journals it first."""

    cluster: str
    journal: Journal
    emit: Emit
    run: str = ""
    phase: str = ""

    def __post_init__(self) -> None:
        self.run = self.run or uuid4().hex[:12]

    @contextlib.asynccontextmanager
    async def step(self, step: str, title: str) -> AsyncIterator[None]:
        """Something that begins here and ends with the block; what is raised in it is told and, but for PutOff, raised
        on."""
        number = self.journal.begin(self.cluster, self.run, step, title)
        began = time.monotonic()
        self.emit(pb.Event(id=step, title=title, state=pb.Event.STARTED, phase=self.phase))
        try:
            yield
        except PutOff as exc:
            self._end(number, step, title, began, pb.Event.SKIPPED, "put off", str(exc))
            return
        except CaasError as exc:
            self._end(number, step, title, began, pb.Event.FAILED, "failed", exc.message, exc.hint)
            raise
        except BaseException as exc:
            self._end(number, step, title, began, pb.Event.FAILED, "interrupted", type(exc).__name__)
            raise
        self._end(number, step, title, began, pb.Event.DONE, "done", "")

    def pending(self, step: str, title: str) -> None:
        """Tell of something that will be begun."""
        self.emit(pb.Event(id=step, title=title, state=pb.Event.PENDING, phase=self.phase))

    def skipped(self, step: str, title: str) -> None:
        """Tell of something that was done already."""
        self.emit(pb.Event(id=step, title=title, state=pb.Event.SKIPPED, phase=self.phase))

    def note(self, message: str) -> None:
        """A line for people."""
        self.emit(pb.Event(state=pb.Event.NOTE, message=message, phase=self.phase))

    def _end(
        self,
        number: int,
        step: str,
        title: str,
        began: float,
        state: pb.Event.State,
        outcome: str,
        message: str,
        hint: str = "",
    ) -> None:
        self.journal.end(number, outcome, message, hint)
        self.emit(
            pb.Event(
                id=step,
                title=title,
                state=state,
                seconds=time.monotonic() - began,
                message=message,
                phase=self.phase,
            )
        )


class Phases:
    """How long each phase of some work took, by name, in seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """What went on since the last end, or the beginning, was *name*."""
        now = time.monotonic()
        self._seconds[name] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Each phase's, rounded to 10 ms."""
        return {name: round(seconds, 2) for name, seconds in self._seconds.items()}

    def total(self) -> float:
        """Since the beginning, rounded to 10 ms."""
        return round(time.monotonic() - self._began, 2)
