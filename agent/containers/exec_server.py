"""The process that runs commands in containers, one forked child for each, so that none waits for another.

Started as `python -m agent.containers.exec_server FD LXCPATH`. Each message on FD brings four descriptors: a line to
the caller, and the command's standard input, output and error. The child attaches, waits, and says the status on the
line. When the caller closes its side, the command's process group is killed; it is so too when the agent ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from agent.containers import liblxc
from agent.containers.config import CONFIG, read_mark
from proto.errors import CaasError, Code

DESCRIPTORS = 4
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
#: As a shell says it (POSIX, 2.8.2): found but not executable, not found.
NOT_EXECUTABLE, NOT_FOUND = 126, 127
#: Ignored signals are inherited over exec: by Python SIGPIPE is, by a shell's background jobs SIGINT and SIGQUIT are.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def serve(connection: socket.socket, lxcpath: Path) -> None:
    """Fork a child for each request until the other side closes. Children are reaped by the kernel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1, DESCRIPTORS)
        if not message:
            return
        if len(descriptors) == DESCRIPTORS and os.fork() == 0:
            try:
                connection.close()
                run_one(lxcpath, *descriptors)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def run_one(lxcpath: Path, line: int, *standard: int) -> None:
    """Read the request from *line*, run it, and answer {"status"} or {"error"}."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=line) as caller:
        answer: dict[str, Any]
        try:
            request = _read_request(caller)
            pid = attach(lxcpath, request, standard)
            for descriptor in standard:
                os.close(descriptor)
            answer = {"status": wait_for(pid, caller)}
        except CaasError as exc:
            answer = {"error": {"code": exc.code.value, "message": exc.message, "hint": exc.hint}}
        with contextlib.suppress(BrokenPipeError):
            caller.sendall(json.dumps(answer).encode() + b"\n")


def _read_request(caller: socket.socket) -> dict[str, Any]:
    with caller.makefile("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        os._exit(0)  # the caller has gone before it said what it wanted
    request: dict[str, Any] = json.loads(line)
    return request


def attach(lxcpath: Path, request: dict[str, Any], standard: tuple[int, ...]) -> int:
    """Start the command in its container; returns its PID out here, a child of this process. NOT_FOUND, FAILED."""
    import lxc

    name = request["name"]
    try:
        ours = read_mark((lxcpath / name / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CaasError(Code.NOT_FOUND, f"container {name} does not exist in {lxcpath}") from None
    if ours is None:
        raise CaasError(Code.NOT_OWNED, f"container {name} is not ours")
    container = liblxc.load(name, lxcpath)
    if int(container.init_pid) <= 0:
        raise CaasError(Code.NOT_FOUND, f"container {name} does not run", hint="start it: caas up FILE")
    environment = {**ENVIRONMENT, **request["env"]}
    stdin, stdout, stderr = standard
    pid = container.attach(
        _execute,
        (request["argv"], environment),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env_policy=lxc.LXC_ATTACH_CLEAR_ENV,
        initial_cwd="/",
    )
    if pid <= 0:
        raise CaasError(Code.FAILED, f"container {name}: liblxc could not attach to it; has it just stopped?")
    return int(pid)


def _execute(command: tuple[list[str], dict[str, str]]) -> int:
    """In the container: become the command. Its group can then be killed as one."""
    argv, environment = command
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # liblxc's socket and ours are not the command's
    os.setsid()
    for number in _DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as exc:
        os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
        return NOT_FOUND if isinstance(exc, FileNotFoundError | NotADirectoryError) else NOT_EXECUTABLE


def wait_for(pid: int, caller: socket.socket) -> int:
    """Its exit status, 128 + N where signal N ended it. Its group is killed when *caller* closes its side."""
    pidfd = os.pidfd_open(pid)
    watched = select.poll()
    watched.register(pidfd, select.POLLIN)
    watched.register(caller, select.POLLIN | select.POLLRDHUP)
    ready = {fd for fd, _ in watched.poll()}
    if pidfd not in ready:
        kill_group(pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def kill_group(pid: int) -> None:
    """SIGKILL to the command and all in its process group; to itself where it has none yet."""
    for target in (-pid, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)


def main() -> None:
    """The process's entry: file descriptor and lxcpath come as arguments."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    os.chdir("/")
    with contextlib.suppress(ImportError):
        import lxc  # noqa: F401 - once here, not in every child
    with contextlib.suppress(ConnectionResetError):
        serve(connection, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
