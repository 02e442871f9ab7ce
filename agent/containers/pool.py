"""The agent's side of the worker processes: calls from any thread, a dead worker replaced.

One worker is for looking only, so that observing never waits behind a container that takes its time to stop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
from pathlib import Path
from typing import Any

from agent.containers.programs import Spawn, spawn_interpreter
from proto.errors import CaasError, Code

log = logging.getLogger(__name__)
_WORKERS_MAX = 8


class WorkerGoneError(Exception):
    """The worker's process ended while it was asked."""


class Worker:
    """One worker process. Not for two threads at once."""

    def __init__(self, lxcpath: Path, spawn: Spawn = spawn_interpreter) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            self.process = spawn("agent.containers.worker", theirs, str(lxcpath))
        self._socket = mine
        self._stream = mine.makefile("rwb")

    def call(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Its answer. WorkerGoneError where the process ended; TimeoutError after *timeout* seconds."""
        self._socket.settimeout(timeout)
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError:
            raise
        except (OSError, ValueError) as exc:  # ValueError: closed before
            raise WorkerGoneError(str(exc)) from exc
        if not line.endswith(b"\n"):
            raise WorkerGoneError("it ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self, *, kill: bool = False) -> None:
        """End it. Without *kill* it finishes what it has begun, and is waited for."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()
        if kill:
            self.process.kill()
        self.process.wait()


class Pool:
    """*size* workers for changes and one for looking (by default two for each core, at most 8)."""

    def __init__(self, lxcpath: Path, *, size: int | None = None, spawn: Spawn = spawn_interpreter) -> None:
        self.size = size or min(_WORKERS_MAX, 2 * (os.cpu_count() or 1))
        self._lxcpath = lxcpath
        self._spawn = spawn
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._readers: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._closed = False
        self.writes = 0
        for _ in range(self.size):
            self._idle.put(Worker(lxcpath, spawn))
        self._readers.put(Worker(lxcpath, spawn))

    def call(self, op: str, *, timeout: float, **arguments: Any) -> Any:
        """Have a worker do *op*. A worker that dies is replaced and *op* done again once: each can be repeated."""
        return self._call(self._idle, {"op": op, **arguments}, timeout)

    def look(self, op: str, *, timeout: float, **arguments: Any) -> Any:
        """Like call, by the worker that changes nothing."""
        return self._call(self._readers, {"op": op, **arguments}, timeout)

    def _call(self, workers: queue.LifoQueue[Worker], request: dict[str, Any], timeout: float) -> Any:
        for again in (False, True):
            try:
                return self._finish(self._ask(workers, {**request, "again": again}, timeout))
            except WorkerGoneError as exc:
                log.warning("a worker ended while it was asked for %s: %s", request["op"], exc)
        raise CaasError(Code.FAILED, f"{request['op']} {request.get('name', '')}: workers end while they do it")

    def _ask(self, workers: queue.LifoQueue[Worker], request: dict[str, Any], timeout: float) -> dict[str, Any]:
        if self._closed:
            raise CaasError(Code.FAILED, "the door to the containers is closed")
        worker = workers.get()
        try:
            return worker.call(request, timeout)
        except (WorkerGoneError, TimeoutError) as exc:
            worker.close(kill=True)
            worker = Worker(self._lxcpath, self._spawn)
            if isinstance(exc, WorkerGoneError):
                raise
            what = f"{request['op']} {request.get('name', '')}".strip()
            raise CaasError(Code.TIMEOUT, f"{what}: liblxc did not answer within {timeout:g} s") from exc
        finally:
            workers.put(worker)

    def _finish(self, answer: dict[str, Any]) -> Any:
        with self._lock:
            self.writes += answer["writes"]
        if error := answer.get("error"):
            raise CaasError(Code(error["code"]), error["message"], hint=error["hint"])
        return answer["result"]

    def pids(self) -> tuple[int, ...]:
        """The idle workers' process ids: for tests."""
        with self._idle.mutex, self._readers.mutex:
            return tuple(worker.process.pid for worker in (*self._idle.queue, *self._readers.queue))

    def close(self) -> None:
        """End the workers once they have finished what they do. Containers stay."""
        self._closed = True
        for workers, count in ((self._idle, self.size), (self._readers, 1)):
            for _ in range(count):
                workers.get().close()
