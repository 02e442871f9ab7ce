"""`python -m tests.support.killing.coordinator …`: caas-coordinator, which can be killed at each of its points."""

from __future__ import annotations

import os
import sys

from coordinator.compiling import compile as compiling
from coordinator.config import ClusterFile
from coordinator.rpc.main import main
from tests.support.killing.points import IMAGES, Points, watch_journal, watch_steps

COORDINATOR = "coordinator"
#: A static program: what is killed here are hosts, not nova.
SMALL = "test-busybox"


def make_small() -> None:
    """Containers are small ones, and nova is not set up in them."""
    compiling.image_of = lambda spec: SMALL
    ClusterFile.has_nova = property(lambda self: False)  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    points = Points.from_environment(COORDINATOR)
    watch_journal(points)
    watch_steps(points)
    if os.environ.get(IMAGES):
        make_small()
    sys.exit(main())
