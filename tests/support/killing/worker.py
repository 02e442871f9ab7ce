"""`python -m tests.support.killing.worker FD LXCPATH FOLDER NAME`: a worker that can be killed at its points."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.containers.worker import main
from tests.support.killing.points import Points, watch_files

if __name__ == "__main__":
    lxcpath, folder, name = sys.argv[2:5]
    watch_files(Points(Path(folder), name), (Path(lxcpath), Path("/sys/fs/cgroup"), Path("/run/lxc")))
    main()
