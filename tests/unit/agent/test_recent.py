"""The agent's last lines about a cluster: those of it, whole, and of no other."""

from __future__ import annotations

import logging

import pytest

from agent.recent import KEPT, RecentLines


@pytest.fixture
def log() -> logging.Logger:
    log = logging.Logger("agent.host")
    log.addHandler(RecentLines())
    return log


def lines(log: logging.Logger, cluster: str, count: int = 10) -> list[str]:
    (handler,) = log.handlers
    assert isinstance(handler, RecentLines)
    return [line.partition("agent.host: ")[2] or line for line in handler.about(cluster, count=count)]


def test_a_name_is_found_where_it_stands_alone_or_with_what_is_of_it(log: logging.Logger) -> None:
    for text in ("demo: one", "container demo.c1: two", "caas:demo:x", "demo-2: no", "my-demo: no", "demos: no"):
        log.info(text)
    assert lines(log, "demo") == ["demo: one", "container demo.c1: two", "caas:demo:x"]
    assert lines(log, "demo-2") == ["demo-2: no"]


def test_the_last_ones_with_their_tracebacks(log: logging.Logger) -> None:
    log.info("demo: first")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("demo: failed")
    assert lines(log, "demo")[-1] == "ValueError: why"
    assert lines(log, "demo", 1) == ["ValueError: why"]
    assert lines(log, "demo", 0) == []


def test_only_so_many_are_kept(log: logging.Logger) -> None:
    for number in range(KEPT + 5):
        log.info("demo: %d", number)
    assert lines(log, "demo", KEPT + 5)[0] == "demo: 5"
