"""Waiting until daemons serve, with a deadline. One that ends meanwhile is reported at once, with its last lines."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from coordinator.lab.daemons import Service
from coordinator.lab.places import Places
from coordinator.lab.processes import Process, clean_environment, enter, last_lines, log_path
from proto.errors import CaasError, Code

DEADLINE = 60.0
_LOOK_EVERY = 0.2


def wait_ready(
    services: Sequence[Service],
    started: Mapping[str, Process],
    places: Places,
    *,
    machine: str,
    report: Callable[[str], None],
    deadline: float = DEADLINE,
) -> None:
    """Return when every one of *services* answers SERVING to a call from *machine*; *report* is told each.

    *started* are the processes by daemon name. FAILED when one has ended, TIMEOUT after *deadline* seconds.
    """
    lines = "".join(f"{one.daemon.name} {one.address} {one.bearer.hostname}\n" for one in services)
    waiting = {one.daemon.name for one in services}
    prober = _start_prober(places, machine, lines)
    assert prober.stdout is not None
    try:
        end, buffer = time.monotonic() + deadline, b""
        while waiting:
            ready, _, _ = select.select([prober.stdout], [], [], _LOOK_EVERY)
            if ready:
                chunk = os.read(prober.stdout.fileno(), 4096)
                if not chunk:
                    raise _prober_failed(prober)
                buffer += chunk
                *names, buffer = buffer.split(b"\n")
                for name in (name.decode() for name in names):
                    waiting.discard(name)
                    report(name)
            _check_alive(waiting, started, places)
            if waiting and time.monotonic() > end:
                raise _late(waiting, places, deadline)
    finally:
        prober.kill()
        prober.communicate()


def _start_prober(places: Places, machine: str, lines: str) -> subprocess.Popen[bytes]:
    argv = [
        *enter(places.namespace(machine)),
        *(sys.executable, "-m", "coordinator.lab.health", str(places.coordinator / "tls")),
    ]
    prober = subprocess.Popen(
        argv,
        cwd="/",
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert prober.stdin is not None
    prober.stdin.write(lines.encode())
    prober.stdin.close()
    prober.stdin = None
    return prober


def _check_alive(waiting: set[str], started: Mapping[str, Process], places: Places) -> None:
    for name in sorted(waiting):
        if not started[name].is_alive():
            raise CaasError(
                Code.FAILED,
                f"{name} ended before it served; its last lines:{last_lines(name, places)}",
                hint=f"see {log_path(name, places)}",
            )


def _late(waiting: set[str], places: Places, deadline: float) -> CaasError:
    said = "".join(f"\n{name}:{last_lines(name, places)}" for name in sorted(waiting))
    return CaasError(
        Code.TIMEOUT,
        f"not serving after {deadline:.0f} s: {', '.join(sorted(waiting))}; their last lines:{said}",
        hint="the same command again continues from here",
    )


def _prober_failed(prober: subprocess.Popen[bytes]) -> CaasError:
    _, said = prober.communicate()
    text = said.decode(errors="replace").strip()
    return CaasError(Code.FAILED, f"coordinator.lab.health ended with {prober.returncode}: {text}")
