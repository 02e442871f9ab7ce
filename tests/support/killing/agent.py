"""`python -m tests.support.killing.agent …`: caas-agent, which can be killed at each of its points."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from agent.containers import programs
from agent.rpc.main import main, parse
from tests.support.killing.points import IMAGES, Points, watch_answers, watch_files, watch_kernel, watch_pool

_WORKER = "agent.containers.worker"


def agent_points(host: str) -> str:
    """What the points of a host's agent are called."""
    return f"agent.{host}"


def worker_points(host: str) -> str:
    """What the points of all its workers are called."""
    return f"worker.{host}"


def run() -> int:
    images = os.environ.get(IMAGES)
    argv = [*sys.argv[1:], *(("--images", images) if images else ())]
    options = parse(argv)
    points = Points.from_environment(agent_points(options.name))
    watch_files(points, (options.state, options.run))
    watch_kernel(points)
    watch_pool(points)
    watch_answers(points)
    _watch_workers(points.folder, worker_points(options.name))
    return main(argv)


def _watch_workers(folder: Path, name: str) -> None:
    """Its workers can be killed, too: their environment is clean, so that they are told by arguments."""
    real = programs.spawn_interpreter

    def spawn(module: str, connection: socket.socket, *arguments: str) -> subprocess.Popen[bytes]:
        if module == _WORKER:
            return real("tests.support.killing.worker", connection, *arguments, str(folder), name)
        return real(module, connection, *arguments)

    programs.spawn_interpreter = spawn


if __name__ == "__main__":
    sys.exit(run())
