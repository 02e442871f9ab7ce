"""One seed for all clones of a source that are under way, whatever the order of threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.containers.seeds import Seeds
from proto.errors import CaasError, Code


class Log:
    """What was taken and dropped; taking fails where `failure` is set."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.dropped: list[tuple[str, str]] = []
        self.failure: CaasError | None = None
        self.seeds = Seeds(self.take, lambda source, seed: self.dropped.append((source, seed)))

    def take(self, source: str, seed: str) -> None:
        self.taken.append((source, seed))
        if self.failure:
            raise self.failure


def test_many_at_once_share_one_and_the_last_drops_it() -> None:
    log = Log()
    together = threading.Barrier(8)

    def clone(_: int) -> str:
        with log.seeds.held("t.c1") as seed:
            together.wait(10)
            assert not log.dropped
            return seed

    with ThreadPoolExecutor(8) as threads:
        names = set(threads.map(clone, range(8)))
    assert log.taken == log.dropped == [("t.c1", names.pop())]
    assert not names


def test_two_sources_and_later_ones_have_their_own() -> None:
    log = Log()
    with log.seeds.held("t.c1") as one, log.seeds.held("t.c2") as other:
        assert one != other
    with log.seeds.held("t.c1") as later:
        assert later not in (one, other)
    assert log.taken == [("t.c1", one), ("t.c2", other), ("t.c1", later)]
    assert sorted(log.dropped) == sorted(log.taken)


def test_a_failure_is_everybodys_who_waited_and_the_next_one_tries_again() -> None:
    log = Log()
    log.failure = CaasError(Code.BUSY, "not frozen")
    for _ in range(2):
        with pytest.raises(CaasError, match="not frozen"), log.seeds.held("t.c1"):
            pytest.fail("there is no seed")
    assert len(log.taken) == 2
    assert log.dropped == log.taken, "half of a seed stays"
