"""Where an agent's worker programs come from: started by itself, or by `caas-containers` where that is another unit."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from proto.errors import CaasError, Code

MESSAGE_MAX = 8192
_ROOT = Path(__file__).resolve().parents[2]
#: A Python starts within this even on a busy machine; seconds.
_PATIENCE = 20.0


class Program(Protocol):
    """A program that has a connection of ours: what of subprocess.Popen the doors need."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self) -> object: ...


class Spawn(Protocol):
    """Runs a module of ours as a program with a connection and arguments."""

    def __call__(self, module: str, connection: socket.socket, *arguments: str) -> Program: ...


def spawn_interpreter(module: str, connection: socket.socket, *arguments: str) -> subprocess.Popen[bytes]:
    """Run *module* in a fresh interpreter that has *connection*, in a session of its own.

    A terminal's interrupt is for the agent: what a worker has begun, it ends. The environment is clean, since the
    monitors of containers inherit it.
    """
    environment = {"PATH": os.defpath + ":/usr/sbin:/sbin", "PYTHONPATH": str(_ROOT), "LANG": "C.UTF-8"}
    fd = connection.fileno()
    argv = [sys.executable, "-m", module, str(fd), *arguments]
    # No preexec_fn: subprocess then uses vfork, which runs none of gRPC's fork handlers.
    return subprocess.Popen(
        argv, pass_fds=(fd,), stdin=subprocess.DEVNULL, env=environment, cwd="/", start_new_session=True
    )


class FarProgram:
    """One that another process has started, by its pidfd."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def kill(self) -> None:
        """SIGKILL; nothing where it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended. May be repeated."""
        if self._pidfd >= 0:
            watched = select.poll()
            watched.register(self._pidfd, select.POLLIN)
            watched.poll()
            os.close(self._pidfd)
            self._pidfd = -1


class Starter:
    """Spawn, by the `caas-containers` that listens at *path*. UNREACHABLE where none does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, module: str, connection: socket.socket, *arguments: str) -> FarProgram:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
                starter.settimeout(_PATIENCE)
                starter.connect(str(self._path))
                socket.send_fds(starter, [json.dumps([module, *arguments]).encode()], [connection.fileno()])
                said, descriptors, _, _ = socket.recv_fds(starter, MESSAGE_MAX, 1)
            answer = json.loads(said or b"{}")
        except OSError as exc:
            raise CaasError(
                Code.UNREACHABLE,
                f"{self._path}: {exc.strerror or exc}: workers for containers cannot be started",
                hint="systemctl status caas-containers",
            ) from exc
        if not descriptors:
            reason = answer.get("error", "it ended")
            raise CaasError(Code.FAILED, f"{self._path}: {module} was not started: {reason}")
        return FarProgram(int(answer["pid"]), descriptors[0])
