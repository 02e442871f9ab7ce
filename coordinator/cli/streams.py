"""Standard input, output and error of a command that runs in a container."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator

from coordinator.cli.client import Coordinator
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

CHUNK = 64 * 1024
#: Chunks read ahead of the network: a fast writer waits, and memory stays flat.
AHEAD = 16


def run_streaming(coordinator: Coordinator, start: pb.CoordinatorExecInput.Start) -> int:
    """Run what *start* says with this process's standard streams; returns its exit status.

    FAILED where the stream ends without a status.
    """
    status: int | None = None
    for output in coordinator.exec(_inputs(start)):
        match output.WhichOneof("output"):
            case "stdout":
                _write(sys.stdout, output.stdout)
            case "stderr":
                _write(sys.stderr, output.stderr)
            case "status":
                status = output.status
    if status is None:
        raise CaasError(Code.FAILED, "the command's stream ended without its status", hint="see caas logs")
    return status


def _write(stream: object, data: bytes) -> None:
    buffer = getattr(stream, "buffer")  # noqa: B009  text streams of tests have one too
    buffer.write(data)
    buffer.flush()


def _inputs(start: pb.CoordinatorExecInput.Start) -> Iterator[pb.CoordinatorExecInput]:
    """The start, then standard input as it comes, then its end.

    Read by a daemon thread: a read that waits for a terminal must not keep this process when the command has ended.
    """
    yield pb.CoordinatorExecInput(start=start)
    chunks: queue.Queue[bytes] = queue.Queue(AHEAD)
    threading.Thread(target=_read_stdin, args=(chunks,), name="stdin", daemon=True).start()
    while data := chunks.get():
        yield pb.CoordinatorExecInput(stdin=data)
    yield pb.CoordinatorExecInput(eof=True)


def _read_stdin(chunks: queue.Queue[bytes]) -> None:
    try:
        descriptor = sys.stdin.fileno()
        while data := os.read(descriptor, CHUNK):
            chunks.put(data)
    except (OSError, ValueError, AttributeError):
        pass  # closed, or none at all (a daemon's): the same as its end
    chunks.put(b"")
