"""Running programs that build an image so that nothing of them outlives the builder.

unshare(1) puts them into PID, mount, UTS and IPC namespaces of their own. The kernel kills unshare when the builder
dies (PR_SET_PDEATHSIG), unshare's --kill-child then kills the namespace's process 1, and with it go all processes
and mounts, however the builder ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from proto.errors import CaasError, Code

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NAMESPACES = ("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--uts", "--ipc")
_LAST_LINES = 15
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PYTHONDONTWRITEBYTECODE": "1",
}
#: $1 is the root file system; the script comes on standard input. No network but lo: nothing is downloaded, and
#: two builds at once cannot meet on a port.
_INSIDE = """
set -e
ip link set lo up
hostname localhost
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs -o mode=755 tmpfs "$1/run"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount --rbind /dev "$1/dev"
chroot "$1" /bin/sh -e -s
"""


class Sandbox:
    """Runs programs for one build. *lock* stays open in them, so that the lock is held while they live."""

    def __init__(self, *, image: str, lock: int, log: IO[bytes], say: Callable[[str], None]) -> None:
        self.image = image
        self.say = say
        self._lock = lock
        self._log = log

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", what: str, show: str = "") -> None:
        """Run *argv*; FAILED with its last lines unless it ends with 0. Lines beginning with *show* are said."""
        # sh is process 1 of the namespace: it waits for the orphans that argv leaves.
        inside = ["sh", "-c", '"$@"; exit $?', "sh", *argv]
        self._run(["unshare", *_NAMESPACES, "--", *inside], stdin=stdin, what=what, show=show)

    def run_inside(self, rootfs: Path, script: bytes, *, what: str) -> None:
        """Run *script* with `sh -e` in *rootfs*, without a network but for lo."""
        argv = ["unshare", *_NAMESPACES, "--net", "--", "sh", "-c", _INSIDE, "sh", str(rootfs)]
        self._run(argv, stdin=script, what=what, show="")

    def _run(self, argv: Sequence[str], *, stdin: bytes, what: str, show: str) -> None:
        last: list[str] = []
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            pass_fds=(self._lock,),
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - the builder has one thread
        ) as process:
            try:
                _feed(process, stdin)
                for line in process.stdout or ():
                    self._log.write(line)
                    text = line.decode(errors="replace").rstrip()
                    last = [*last[-_LAST_LINES:], text]
                    if show and text.startswith(show):
                        self.say(f"image {self.image}: {text.removeprefix(show).strip()}")
            except BaseException:
                process.kill()  # an interrupt: do not wait for packages to install
                raise
        if process.returncode != 0:
            tail = "\n  ".join(last)
            raise CaasError(
                Code.FAILED,
                f"image {self.image}: {what} ended with {process.returncode}:\n  {tail}",
                hint=f"the whole output: {self._log.name}",
            )


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Programs here read all of their input before they say much, so one write cannot lock both up."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended early; its status says so
        process.stdin.write(data)
        process.stdin.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
