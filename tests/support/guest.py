"""A guest with Debian's own kernel, under emulation, in the background: one core works for it while tests wait.

`python -m tests.support.guest ARGUMENTS` runs pytest there with these, and prints what it says.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.stock_kernel import prepare

ROOT = Path(__file__).parents[2]
LOG = ROOT / "build" / "kernel-guest.log"
#: Under emulation on two busy cores; alone on the machine it takes a fraction of it.
DEADLINE_SECONDS = 1500
_CACHED_EXPORT = (
    "-fsdev local,id=cached,path=/,security_model=none,readonly=on,multidevs=remap "
    "-device virtio-9p-pci,fsdev=cached,mount_tag=cached"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the guest runs on; *qemu* are more of QEMU's options."""

    cpus: int = 2
    qemu: str = ""


def make_test_run(arguments: Sequence[str]) -> list[str]:
    """Arguments of a run of pytest, for Guest."""
    return ["pytest", "-q", "-p", "no:cacheprovider", "--color=no", "--tb=short", "--durations=10", *arguments]


class Guest:
    """Runs tests/kernel/guest.sh in a guest, with *runs* (name -> what follows `python -m`); *log* has what it says."""

    def __init__(self, runs: Mapping[str, Sequence[str]], *, log: Path = LOG, machine: Machine | None = None) -> None:
        self._runs, self._log, self._machine = runs, log, machine or Machine()
        self._failure = ""
        self._stopped = False
        # Not the thread's own join: interrupted once, Python 3.11 takes the thread for ended from then on.
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="guest", daemon=True).start()

    def said(self) -> str:
        """All that it said, once it has ended. AssertionError where it could not be started."""
        self._ended.wait()
        assert not self._failure, self._failure
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End it now, with all its processes."""
        self._stopped = True
        self._ended.wait()

    def _work(self) -> None:
        try:
            self._run(_command(self._runs, self._machine))
        except (RuntimeError, OSError) as exc:
            self._failure = f"no stock kernel: {exc}"
        finally:
            self._ended.set()

    def _run(self, command: list[str]) -> None:
        """In a session of its own, its output through a pipe into the log, all of it ended at the deadline."""
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("wb") as log:
            running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PATH": _path()},
                start_new_session=True,
            )
            assert running.stdout
            deadline = time.monotonic() + DEADLINE_SECONDS
            try:
                os.set_blocking(running.stdout.fileno(), False)
                while running.poll() is None and time.monotonic() < deadline and not self._stopped:
                    log.write(running.stdout.read() or b"")
                    log.flush()
                    time.sleep(0.2)
                log.write(running.stdout.read() or b"")
            finally:
                if running.poll() is None:
                    os.killpg(running.pid, signal.SIGKILL)
                    running.wait()


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def _command(runs: Mapping[str, Sequence[str]], machine: Machine) -> list[str]:
    image = prepare()
    for tool, mend in (("vng", "make venv"), ("qemu-system-x86_64", "apt-get install qemu-system-x86")):
        if shutil.which(tool, path=_path()) is None:
            raise RuntimeError(f"{tool} is not there: {mend}")
    guest = ["sh", str(ROOT / "tests/kernel/guest.sh"), str(ROOT), sys.executable]
    guest += [word for name, arguments in runs.items() for word in (name, shlex.join(arguments))]
    command = ["vng", "--verbose", "--run", str(image), "--disable-kvm", "--cpus", str(machine.cpus), "--memory", "2G"]
    command += ["--append", "quiet", "--append", "loglevel=1", f"--qemu-opts={_CACHED_EXPORT} {machine.qemu}", "--"]
    # vng joins the words of its command with blanks.
    return [*command, shlex.join(guest)]


def main(arguments: Sequence[str]) -> int:
    """0 where all that was asked for passed."""
    guest = Guest({"asked": make_test_run(arguments)}, log=ROOT / "build" / "asked-guest.log")
    try:
        said = guest.said()
    finally:
        guest.stop()
    print(said[said.find("=== guest") :])
    return 0 if "\n=== asked: status 0" in said else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
