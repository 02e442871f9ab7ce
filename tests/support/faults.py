"""What goes wrong in the fakes: one write fails, before or after its effect, by an error or by kill -9 of the agent."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agent.confirming import Unconfirmed
from agent.saved import SavedStates
from proto.errors import CaasError, Code
from proto.model import ClusterHost


class Crash(BaseException):
    """The agent was killed: nothing that it does after this has any effect, nor does it see anything."""


class Fault(enum.Enum):
    """How a write fails. After its effect: it was done, and whoever asked for it does not learn that."""

    ERROR_BEFORE = "error before its effect"
    ERROR_AFTER = "error after its effect"
    CRASH_BEFORE = "killed before its effect"
    CRASH_AFTER = "killed after its effect"


class Faults:
    """Counts the writes of all fakes that share it, from 1, and fails one of them when it was armed."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.reached = ""
        self._lock = threading.RLock()
        self._at, self._fault = 0, Fault.ERROR_BEFORE
        self._is_dead = False

    def arm(self, at: int, fault: Fault) -> None:
        """Let the *at*-th write from now fail by *fault*, once."""
        self._at, self._fault = len(self.done) + at, fault

    def revive(self) -> None:
        """The agent is started again. What is armed and was not reached is armed no more."""
        self._at, self._is_dead = 0, False

    def look(self) -> None:
        """What is dead sees nothing."""
        if self._is_dead:
            raise Crash

    @contextmanager
    def write(self, what: str) -> Iterator[None]:
        """Around the effect of one write, which *what* names."""
        with self._lock:
            self.look()
            self.done.append(what)
            is_it = len(self.done) == self._at
            if is_it and self._fault in (Fault.ERROR_BEFORE, Fault.CRASH_BEFORE):
                self._fail(what)
            yield
            if is_it:
                self._fail(what)

    def _fail(self, what: str) -> None:
        self.reached = what
        if self._fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            self._is_dead = True
            raise Crash(what)
        raise CaasError(Code.FAILED, f"{what}: simulated")


class FaultyUnconfirmed:
    """Changes that wait to be confirmed, in memory: *kept* outlives the agent. Each write may fail."""

    def __init__(self, kept: dict[str, Unconfirmed], faults: Faults) -> None:
        self._kept, self._faults = kept, faults

    def load(self) -> dict[str, Unconfirmed]:
        return dict(self._kept)

    def save(self, state: Unconfirmed) -> None:
        with self._faults.write(f"save unconfirmed {state.cluster}"):
            self._kept[state.cluster] = state

    def forget(self, cluster: str) -> None:
        with self._faults.write(f"forget unconfirmed {cluster}"):
            self._kept.pop(cluster, None)


class FaultyStates(SavedStates):
    """What is saved, in memory: what it is given outlives the agent. Each write may fail."""

    def __init__(
        self,
        kept: dict[str, ClusterHost],
        removed: dict[str, int],
        unconfirmed: dict[str, Unconfirmed],
        faults: Faults,
    ) -> None:
        self._kept, self._removed, self._faults = kept, removed, faults
        self.unconfirmed = FaultyUnconfirmed(unconfirmed, faults)

    def load(self) -> dict[str, ClusterHost]:
        self._faults.look()
        return dict(self._kept)

    def save(self, state: ClusterHost) -> None:
        with self._faults.write(f"save {state.cluster}"):
            self._kept[state.cluster] = state

    def forget(self, cluster: str) -> None:
        with self._faults.write(f"forget {cluster}"):
            self._kept.pop(cluster, None)

    def load_removed(self) -> dict[str, int]:
        return dict(self._removed)

    def save_removed(self, removed: Mapping[str, int]) -> None:
        with self._faults.write("save removals"):
            self._removed.clear()
            self._removed.update(removed)
