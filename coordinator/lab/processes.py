"""Daemons of a lab: started detached inside a namespace, found again, ended. A recycled pid is never taken for one.

A daemon is known by its pid and start time in a file, and, until that is written, by a variable in its environment
that everything it forks inherits. A namespace is entered by nsenter(1), which hides nothing (`ip netns exec` hides
the cgroups, and then no container starts).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.inside import NETNS_RUN
from coordinator.lab.places import Places
from proto.errors import CaasError, Code

VARIABLE = "CAAS_LAB_PROCESS"
PROC = Path("/proc")
TERM_WAIT = 10.0
KILL_WAIT = 10.0
LOG_LINES = 15
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A process that a lab keeps running: *name* is unique in the lab, *machine* says in which namespace."""

    name: str
    machine: str
    argv: tuple[str, ...]
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A pid with its start time (field 22 of /proc/PID/stat, proc(5), in ticks after boot): no other has both."""

    pid: int
    start: int

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        seen = _read_stat(self.pid)
        return seen is not None and seen[0] == self.start and seen[1] not in "ZX"


def start(daemon: Daemon, places: Places) -> Process:
    """Start *daemon* in its machine's namespace, in a session of its own, its output appended to its log."""
    places.log.mkdir(mode=0o755, parents=True, exist_ok=True)
    places.pids.mkdir(mode=0o755, parents=True, exist_ok=True)
    argv = [
        *enter(places.namespace(daemon.machine)),
        *(as_user(daemon.uid) if daemon.uid else ()),
        *daemon.argv,
    ]
    environment = {**CLEAN, VARIABLE: f"{places.lab}/{daemon.name}", "PYTHONUNBUFFERED": "1"}
    with log_path(daemon.name, places).open("ab") as log:
        try:
            child = subprocess.Popen(
                argv,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as exc:
            raise CaasError(Code.FAILED, f"{daemon.name}: {argv[0]}: {exc.strerror}") from exc
    process = find_process(child.pid)
    if process is None:
        raise CaasError(Code.FAILED, f"{daemon.name} ended at once", hint=f"see {log_path(daemon.name, places)}")
    child.returncode = 0  # it outlives us: Popen must neither wait for it nor complain
    _remember(daemon.name, process, places)
    return process


def enter(namespace: str) -> tuple[str, ...]:
    """The words that run the command after them inside *namespace*, and change nothing else."""
    return ("nsenter", f"--net={NETNS_RUN / namespace}", "--")


def as_user(uid: int) -> tuple[str, ...]:
    """The words that run the command after them as *uid*, without groups or any way back to privileges."""
    return (
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "--",
    )


def clean_environment() -> dict[str, str]:
    """What a process that a lab starts gets to see."""
    return dict(CLEAN)


def find_process(pid: int) -> Process | None:
    """The process *pid* as it is now, None where there is none or only its zombie."""
    seen = _read_stat(pid)
    return Process(pid, seen[0]) if seen is not None and seen[1] not in "ZX" else None


def running(name: str, places: Places) -> Process | None:
    """The daemon called *name* as it was started, if it still runs."""
    try:
        loaded = json.loads((places.pids / name).read_text())
        process = Process(int(loaded["pid"]), int(loaded["start"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return process if process.is_alive() else None


def marked(places: Places) -> dict[Process, str]:
    """Every process that was started for this lab, or forked by one that was -> the daemon's name."""
    found = {}
    prefix = f"{VARIABLE}={places.lab}/".encode()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix) and (process := find_process(pid)) is not None:
                    found[process] = entry[len(prefix) :].decode(errors="replace")
    return found


def all_pids() -> tuple[int, ...]:
    """Every pid, this process's and its ancestors' left out: whatever a lab ends, it is none of those."""
    mine, pid = set(), os.getpid()
    while pid > 0 and pid not in mine:
        mine.add(pid)
        pid = _parent(pid)
    return tuple(int(entry) for entry in os.listdir(PROC) if entry.isdigit() and int(entry) not in mine)


def stop(processes: Iterable[Process], *, ask: bool = True) -> tuple[Process, ...]:
    """End *processes* together: SIGTERM (unless not *ask*), SIGKILL after a while. Returns those that stayed."""
    left = tuple(process for process in processes if process.is_alive())
    for number, seconds in ((signal.SIGTERM, TERM_WAIT), (signal.SIGKILL, KILL_WAIT))[0 if ask else 1 :]:
        for process in left:
            _send(process, number)
        left = wait_gone(left, seconds)
        if not left:
            break
    return left


def wait_gone(processes: tuple[Process, ...], seconds: float) -> tuple[Process, ...]:
    """Those of *processes* that are still alive after *seconds*; returns as soon as there are none."""
    deadline = time.monotonic() + seconds
    left = processes
    while left:
        for process in left:
            with contextlib.suppress(ChildProcessError):  # reap it where it is our own child
                os.waitpid(process.pid, os.WNOHANG)
        left = tuple(process for process in left if process.is_alive())
        if not left or time.monotonic() >= deadline:
            break
        _wait_for_one(left[0], min(0.5, deadline - time.monotonic()))
    return left


def log_path(name: str, places: Places) -> Path:
    """Where the output of the daemon called *name* goes."""
    return places.log / f"{name}.log"


def last_lines(name: str, places: Places, *, count: int = LOG_LINES) -> str:
    """The end of a daemon's log, indented; "" where there is none."""
    try:
        with log_path(name, places).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 16_384))
            lines = log.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return ""
    return "".join(f"\n  | {line}" for line in lines)


def forget(name: str, places: Places) -> None:
    """Remove the pid file of the daemon called *name*."""
    (places.pids / name).unlink(missing_ok=True)


def run(argv: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; its exit status and what it said on both streams. TIMEOUT after *timeout* seconds."""
    try:
        done = subprocess.run(
            argv,
            cwd="/",
            env={**CLEAN, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CaasError(Code.TIMEOUT, f"{' '.join(argv)}: not done after {timeout:.0f} s") from exc
    except OSError as exc:
        raise CaasError(Code.FAILED, f"{argv[0]}: {exc.strerror}") from exc
    return done.returncode, done.stdout.decode(errors="replace")


def _remember(name: str, process: Process, places: Places) -> None:
    path = places.pids / name
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps({"pid": process.pid, "start": process.start}) + "\n")
    temporary.replace(path)


def _send(process: Process, number: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor holds on to whoever has the pid now; if that is still our process, it is the one signalled.
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def _wait_for_one(process: Process, seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if process.is_alive():
            poller.poll(max(0.0, seconds) * 1000)
    finally:
        os.close(descriptor)


def _read_stat(pid: int) -> tuple[int, str] | None:
    """Start time and state. The name (field 2) may hold blanks and parentheses: fields are counted from its end."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after = text.rpartition(")")[2].split()
    return int(after[19]), after[0]


def _parent(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[1])
