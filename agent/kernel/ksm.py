"""The kernel's merging of equal pages (KSM, Documentation/admin-guide/mm/ksm.rst): on while an agent wants it.

It is the machine's, and a machine may have several agents (a lab). Each that wants it has a file in *folder*, which is
on tmpfs: after a reboot it is gone, and so is what was set in the kernel. The first to come writes down what it finds;
the last to go puts back what nobody else has changed since. Where KSM runs already it has another owner, who is not
disturbed.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.core.doors import Lack
from proto.disk import write_whole
from proto.errors import CaasError, Code

log = logging.getLogger(__name__)
FOLDER = Path("/run/caas/ksm")
KSM = Path("/sys/kernel/mm/ksm")
RUN, RUNS = "run", "1"
#: Pages in 20 ms: with 64 computes every page is looked at once in a quarter of a minute, for a tenth of a core.
WANTED = {"pages_to_scan": "4000", "sleep_millisecs": "20", RUN: RUNS}
_FOUND, _OWNER = "found.json", "owner-"
PR_GET_MEMORY_MERGE = 68  # linux/prctl.h
_MEND = "or say density: normal"
#: Sets it, becomes another program, asks: status 0 where that one still has it.
_TRY = """
import ctypes, os, sys
ask = ctypes.CDLL(None).prctl
if sys.argv[1:]: sys.exit(ask(68, 0, 0, 0, 0) != 1)
ask(67, 1, 0, 0, 0)
os.execv(sys.executable, [*sys.orig_argv, "again"])
"""
_TRY_SECONDS = 20


class Merging:
    """MergeDoor for the agent whose state is in *owner*, a folder that is there for as long as the agent may come back.

    Raises CaasError (FAILED) where the kernel's values cannot be written.
    """

    def __init__(self, owner: Path, *, folder: Path = FOLDER, ksm: Path = KSM) -> None:
        self._owner = owner.absolute()
        self._folder = folder
        self._ksm = ksm

    def hold(self) -> None:
        with _locked(self._folder):
            found = self._folder / _FOUND
            if not found.exists():
                write_whole(found, json.dumps({name: self._read(name) for name in WANTED}))
            mine = self._folder / _owner_name(self._owner)
            if not mine.exists():
                write_whole(mine, str(self._owner))
            if _load(found)[RUN] == RUNS:
                return
            for name, value in WANTED.items():
                if self._read(name) != value:
                    log.info("%s: %s -> %s", self._ksm / name, self._read(name), value)
                    self._write(name, value)

    def release(self) -> None:
        if not self._folder.is_dir():
            return
        with _locked(self._folder):
            (self._folder / _owner_name(self._owner)).unlink(missing_ok=True)
            self._settle()

    def sweep(self) -> None:
        """Release it for agents whose state is gone: they cannot do it themselves."""
        if self._folder.is_dir():
            with _locked(self._folder):
                self._settle()

    def lacks(self) -> tuple[Lack, ...]:
        if not self._ksm.is_dir():
            return (Lack(what="density high: this kernel has no KSM", mend=f"boot one with CONFIG_KSM=y, {_MEND}"),)
        if ctypes.CDLL(None).prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 0 or not _is_inherited():
            what = f"density high: Linux {os.uname().release} cannot merge all of a process and of what it starts"
            return (Lack(what=f"{what} (PR_SET_MEMORY_MERGE)", mend=f"boot Linux 6.7 or later, {_MEND}"),)
        if self._read(RUN) != RUNS and not os.access(self._ksm / RUN, os.W_OK):
            what = f"density high: {self._ksm} cannot be written, and KSM does not run"
            return (Lack(what=what, mend=f"echo 1 > {self._ksm / RUN} where that is allowed, {_MEND}"),)
        return ()

    def _settle(self) -> None:
        """Where nobody wants it any more: put back what was found, and remove the folder."""
        for each in self._folder.glob(f"{_OWNER}*"):
            if not Path(each.read_text()).is_dir():
                each.unlink()
        if any(self._folder.glob(f"{_OWNER}*")):
            return
        found = self._folder / _FOUND
        if found.exists():
            before = _load(found)
            for name, value in WANTED.items() if before[RUN] != RUNS else ():
                if self._read(name) == value != before[name]:
                    log.info("%s: %s -> %s, as it was", self._ksm / name, value, before[name])
                    self._write(name, before[name])
            found.unlink()
        self._folder.rmdir()
        with suppress(OSError):  # others have something in it
            self._folder.parent.rmdir()

    def _read(self, name: str) -> str:
        try:
            return (self._ksm / name).read_text().strip()
        except OSError as exc:
            raise CaasError(Code.FAILED, f"read {self._ksm / name}: {exc.strerror}") from exc

    def _write(self, name: str, value: str) -> None:
        try:
            (self._ksm / name).write_text(value)
        except OSError as exc:
            raise CaasError(
                Code.FAILED, f"write {value} to {self._ksm / name}: {exc.strerror}", hint="run the agent as root"
            ) from exc


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold *folder*, which is made where it is not there, for oneself."""
    while True:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(folder, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether nobody has removed it between its opening and its locking."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _owner_name(owner: Path) -> str:
    return _OWNER + hashlib.sha256(os.fsencode(owner)).hexdigest()[:16]


def _load(path: Path) -> dict[str, str]:
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded


def _is_inherited() -> bool:
    """Whether a program that a merging process becomes merges too: not in the first kernels that can merge."""
    argv = [sys.executable, "-I", "-S", "-c", _TRY]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRY_SECONDS, check=False)
    return done.returncode == 0
