"""liblxc's binding, with its faults mended: `False` becomes a CaasError with the reason from the container's log.

Only for worker processes: start, stop and wait hold the GIL, and liblxc must not live beside gRPC (facts.md).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from agent.containers import density
from agent.containers.config import LOG, expected_rootfs
from agent.containers.record import Record
from agent.containers.rootfs import ROOTFS, UPPER, Storage, check_rootfs
from proto.errors import CaasError, Code

_LINE = re.compile(r"^lxc \S+ \S+ (?P<level>[A-Z]+) +\S+ - \S+:(?P<where>\w+):\d+ - (?P<text>.*)$")
_REASONS = 4
#: Where liblxc 5 keeps a lock file for each container that was ever loaded, and never removes it.
_LOCKS = Path("/run/lxc/lock")
#: How long one signal to init is waited for before it is sent again: systemd drops what comes before it listens.
_AGAIN = 3


def binding() -> Any:
    """liblxc's Python binding, loaded when it is first needed; UNSUPPORTED where it is missing."""
    try:
        import lxc
    except ImportError as exc:
        raise CaasError(
            Code.UNSUPPORTED, f"liblxc's Python binding is missing: {exc}", hint="apt-get install lxc python3-lxc"
        ) from exc
    return lxc


def load(name: str, lxcpath: Path) -> Any:
    """liblxc's own object for container *name*; UNSUPPORTED where the binding is missing."""
    lxc = binding()
    try:
        return lxc.Container(name, str(lxcpath))
    except RuntimeError as exc:  # it says no more than that; its configuration does not load
        raise CaasError(Code.FAILED, f"container {name}: liblxc cannot load its configuration: {exc}") from exc


def check_startable(read_back: object, record: Record, place: Path) -> None:
    """Refuse to start unless liblxc itself says which root file system it will use, and that is there.

    *read_back* is what liblxc has for lxc.rootfs.path. Without one, the container would boot the machine's own
    root file system and its systemd-tmpfiles would empty the machine's /tmp. REFUSED or NOT_FOUND.
    """
    name = record.container.name
    wanted = expected_rootfs(record, place)
    if read_back not in (wanted, f"overlay:{wanted}", f"dir:{wanted}"):
        raise CaasError(
            Code.REFUSED,
            f"container {name}: its root file system reads back as {read_back!r}, not {wanted!r}; not started",
            hint=f"delete container {name} and make it again",
        )
    hint = f"caas image build {record.container.image}"
    if record.storage is Storage.OVERLAY:
        check_rootfs(record.image_rootfs, owner=f"container {name}", hint=hint)
        if not (place / UPPER).is_dir():
            raise CaasError(Code.NOT_FOUND, f"container {name}: {place / UPPER} is missing; not started")
    else:
        check_rootfs(place / ROOTFS, owner=f"container {name}", hint="")


def start(container: Any, place: Path, *, merge: bool = False) -> int:
    """Start it and return the PID of its init. FAILED with liblxc's reason. check_startable comes first.

    *merge*: the kernel may merge its pages, see density.

    In a child that ends at once: liblxc moves the process that calls it into the container's monitor cgroup, which
    could not be removed as long as a worker sat in it.
    """
    (place / LOG).write_bytes(b"")  # liblxc appends; only this start's reasons count
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            if merge:
                density.merge_own_pages()
            status = 0 if container.start(useinit=False, daemonize=True, close_fds=True) else 1
        os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        raise CaasError(Code.FAILED, f"container {container.name} did not start: {last_reasons(place / LOG)}")
    pid = int(container.init_pid)
    if pid <= 0:
        raise CaasError(Code.FAILED, f"container {container.name} ended at once: {last_reasons(place / LOG)}")
    return pid


def stop(container: Any, place: Path, *, patience: float) -> int:
    """Ask init to shut down for *patience* seconds, then kill it. Returns how many changing calls that took."""
    deadline = time.monotonic() + patience
    calls = 0
    while container.init_pid > 0 and (left := deadline - time.monotonic()) > 0:
        calls += 1
        if container.shutdown(min(_AGAIN, max(1, round(left)))):
            break
    if container.init_pid > 0:
        calls += 1
        if not container.stop() or not container.wait("STOPPED", 10):
            raise CaasError(Code.FAILED, f"container {container.name} cannot be killed: {last_reasons(place / LOG)}")
    return calls


def last_reasons(log: Path) -> str:
    """The errors that liblxc wrote to *log* last, the first cause first; "no reason given" where there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    found = [match["text"] for line in lines if (match := _LINE.match(line)) and match["level"] in ("ERROR", "FATAL")]
    return "; ".join(found[:_REASONS]) or "no reason given"


def remove_lock(name: str, lxcpath: Path) -> None:
    """Remove the lock file of a container that is gone, and its folders where nothing is left in *lxcpath*."""
    (_lock_folder(lxcpath) / f".{name}").unlink(missing_ok=True)
    remove_lock_folders(lxcpath)


def remove_lock_folders(lxcpath: Path) -> None:
    """Remove the folders of locks where nothing is left in *lxcpath*, also what a call that was cut off has left."""
    if any(lxcpath.iterdir()):
        return
    folder = _lock_folder(lxcpath)
    with contextlib.suppress(OSError):  # not empty: others' locks
        while folder != _LOCKS:
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            folder = folder.parent


def _lock_folder(lxcpath: Path) -> Path:
    return _LOCKS / str(lxcpath).lstrip("/")
