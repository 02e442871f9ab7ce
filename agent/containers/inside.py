"""Paths of a root file system as a process in it sees them: a symlink that a container made never leads out of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from agent.containers.children import die_with_parent
from proto.errors import CaasError, Code

_ENOSPC = 28
_MESSAGE_SIZE = 4096


def resolve_inside(root: Path, path: str) -> Path | None:
    """*path* in *root*, its symlinks followed as a process chrooted there would; None where it leads nowhere."""
    todo = [part for part in path.split("/") if part][::-1]
    done: list[str] = []
    for _ in range(256):
        if not todo:
            found = root.joinpath(*done)
            return found if found.exists() else None
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if here.is_symlink():
            target = str(here.readlink())
            done = [] if target.startswith("/") else done
            todo.extend(piece for piece in target.split("/")[::-1] if piece)
        else:
            done.append(part)
    return None  # a loop of symlinks


def work_inside(root: Path, work: Callable[[], None], *, owner: str) -> None:
    """Do *work* in a child whose root directory is *root*: the kernel itself keeps it in there.

    Call it from a process of one thread. *work* may only use what is imported already. FAILED or NO_ROOM with
    *owner* and what went wrong; REFUSED, and *work* is not done, where it would be done to the machine itself.
    """
    machine = os.stat("/")
    if os.path.samestat(root.stat(), machine):
        raise CaasError(Code.REFUSED, f"{owner}: {root} is the machine's own root directory")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_with_parent()
            os.chroot(root)
            os.chdir("/")
            if os.path.samestat(os.stat("/"), machine):
                raise OSError("still in the machine's own root directory")
            work()
            status = 0
        except BaseException as exc:
            status = 2 if isinstance(exc, OSError) and exc.errno == _ENOSPC else 1
            with contextlib.suppress(BaseException):
                os.write(writer, f"{type(exc).__name__}: {exc}".encode()[:_MESSAGE_SIZE])
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode(errors="replace")
    if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise CaasError(Code.NO_ROOM if status == 2 else Code.FAILED, f"{owner}: {text or f'ended with {status}'}")
