"""`python -m tests.support.killing.natbox …`: caas-natbox, which can be killed at each of its points."""

from __future__ import annotations

import sys

from natbox.main import main, parse
from tests.support.killing.points import Points, watch_answers, watch_files, watch_kernel

NATBOX = "natbox"

if __name__ == "__main__":
    points = Points.from_environment(NATBOX)
    watch_files(points, (parse(sys.argv[1:]).state,))
    watch_kernel(points)
    watch_answers(points)
    sys.exit(main())
