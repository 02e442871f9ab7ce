"""One demonstration for the whole tier: two hosts, NATBox, real nova, two computes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.demonstration import Demonstration


@pytest.fixture(scope="session")
def demonstration() -> Iterator[Demonstration]:
    played = Demonstration(f"e2e{os.getpid()}")
    try:
        played.play()
        yield played
    finally:
        played.down()
