"""The process `caas-containers`: starts the workers of an agent that may not start them itself.

What calls liblxc hands its sandbox on to containers (capabilities, seccomp, NoNewPrivileges), so under systemd the
agent's unit is one and this is another. It listens on a unix socket (0600). A caller sends one message with a
descriptor: which program should have it. The answer brings a pidfd (pidfd_open(2)) of the program, by which the caller
waits for it and ends it. Programs outlive this process, as containers do, and end with their connection.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from agent.containers.config import check_path
from agent.containers.halting import stop_all
from agent.containers.programs import MESSAGE_MAX, spawn_interpreter
from proto.errors import CaasError, invalid
from proto.transport.notify import tell_systemd

log = logging.getLogger("caas.containers")
PROGRAMS = frozenset({"agent.containers.worker", "agent.containers.exec_server"})
#: Children that ended are let go of at the latest after so many milliseconds.
_REAP_MS = 30_000
#: A caller says what it wants at once; seconds.
_PATIENCE = 5.0


def listen(path: Path) -> socket.socket:
    """A socket at *path* that only its owner may connect to."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)  # nobody may connect between bind and chmod
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    listening.listen(64)
    return listening


def serve(listening: socket.socket, ended: int, lxcpath: Path) -> None:
    """Start what is asked for until *ended*, a descriptor, can be read."""
    children: list[subprocess.Popen[bytes]] = []
    watched = select.poll()
    watched.register(listening, select.POLLIN)
    watched.register(ended, select.POLLIN)
    while True:
        ready = {fd for fd, _ in watched.poll(_REAP_MS)}
        children = [child for child in children if child.poll() is None]
        if ended in ready:
            return
        if ready:
            caller, _ = listening.accept()
            with caller:
                caller.settimeout(_PATIENCE)
                try:
                    children.append(_start_for(caller, lxcpath))
                except (OSError, ValueError, CaasError) as exc:
                    log.error("a program was not started: %s", exc)


def _start_for(caller: socket.socket, lxcpath: Path) -> subprocess.Popen[bytes]:
    message, descriptors, _, _ = socket.recv_fds(caller, MESSAGE_MAX, 1)
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(socket.socket(fileno=fd)) for fd in descriptors]
        program, *arguments = json.loads(message)
        if len(connections) != 1 or program not in PROGRAMS or arguments != [str(lxcpath)]:
            socket.send_fds(caller, [json.dumps({"error": f"{lxcpath} is served here"}).encode()], [])
            raise invalid(f"{program} {arguments}: only workers of {lxcpath} are started here")
        child = spawn_interpreter(program, connections[0], *arguments)
        pidfd = os.pidfd_open(child.pid)
        opened.callback(os.close, pidfd)
        with contextlib.suppress(BrokenPipeError):  # the caller has gone; the program ends with its connection
            socket.send_fds(caller, [json.dumps({"pid": child.pid}).encode()], [pidfd])
    return child


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="caas-containers",
        description="Starts the processes that make, start and enter containers, for an agent in a sandbox.",
        epilog="SIGTERM ends it; what it has started goes on.",
    )
    parser.add_argument("--state", required=True, type=Path, metavar="DIR", help="the agent's")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="where the agent connects (its --workers)")
    parser.add_argument("--stop-all", action="store_true", help="stop every container and end: for a shutdown")
    options = parser.parse_args(argv)
    if not options.socket and not options.stop_all:
        parser.error("--socket is needed")
    return options


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 1 it could not run, 2 the command line is wrong."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if options.stop_all:
            return 0 if stop_all(options.state) else 1
        _run(options)
    except CaasError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.code.exit_status
    return 0


def _run(options: argparse.Namespace) -> None:
    lxcpath = check_path(options.state.absolute() / "containers")
    reading, writing = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(writing, b"."))
    with listen(options.socket) as listening:
        tell_systemd("READY=1")
        log.info("starts the workers of %s, asked at %s", lxcpath, options.socket)
        serve(listening, reading, lxcpath)
    log.info("ends; what it has started goes on")
    tell_systemd("STOPPING=1")


if __name__ == "__main__":
    sys.exit(main())
