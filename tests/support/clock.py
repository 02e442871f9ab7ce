"""A machine's time that only a test moves on."""

from __future__ import annotations

from collections.abc import Callable


class FakeClock:
    """agent.confirming.Clock. What is due is called by `advance`, in the caller's thread."""

    def __init__(self) -> None:
        self.now, self.wall, self.boots = 1000.0, 1_700_000_000.0, 1
        self._calls: list[tuple[float, Callable[[], None]]] = []

    def boot(self) -> str:
        return f"boot {self.boots}"

    def boot_seconds(self) -> float:
        return self.now

    def wall_seconds(self) -> float:
        return self.wall

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self._calls.append((self.now + seconds, function))

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen when it is due."""
        end = self.now + seconds
        while due := [call for call in self._calls if call[0] <= end]:
            first = min(due, key=lambda call: call[0])
            self._calls.remove(first)
            self._set(max(self.now, first[0]))
            first[1]()
        self._set(end)

    def restart(self) -> None:
        """The process ends, and with it what it wanted to be called for."""
        self._calls.clear()

    def reboot(self, seconds: float) -> None:
        """The machine is off for so long."""
        self.restart()
        self.boots += 1
        self.wall += seconds
        self.now = 5.0

    def _set(self, now: float) -> None:
        self.wall += now - self.now
        self.now = now
