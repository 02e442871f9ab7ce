"""The door's side of seeds: one for all clones of a source that are under way, whichever thread comes first."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.containers.clones import SEED
from proto.errors import CaasError


@dataclass(slots=True)
class _Held:
    name: str
    users: int = 0
    taken: bool = False
    failure: CaasError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Seeds:
    """*take(source, seed)* makes the seed of that name, *drop(source, seed)* removes it, also half of one."""

    def __init__(self, take: Callable[[str, str], None], drop: Callable[[str, str], None]) -> None:
        self._take = take
        self._drop = drop
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        # Names that no other agent's workers know, even those of one that was killed just now.
        self._names = (f"{os.getpid()}-{number}" for number in itertools.count())

    @contextlib.contextmanager
    def held(self, source: str) -> Iterator[str]:
        """The name of a seed of *source*, taken after this was entered or while another held it."""
        with self._lock:
            held = self._held.setdefault(source, _Held(f"{SEED}{source}@{next(self._names)}"))
            held.users += 1
        try:
            with held.lock:
                self._take_once(source, held)
            yield held.name
        finally:
            with self._lock:
                held.users -= 1
                is_last = held.users == 0
                if is_last:
                    del self._held[source]
            if is_last:
                self._drop(source, held.name)

    def _take_once(self, source: str, held: _Held) -> None:
        """What has failed for one fails for all that came meanwhile: none waits for the same again."""
        if held.failure is not None:
            raise held.failure
        if held.taken:
            return
        try:
            self._take(source, held.name)
        except CaasError as exc:
            held.failure = exc
            raise
        held.taken = True
