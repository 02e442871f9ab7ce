"""Who may log in to a container by SSH: its /root/.ssh/authorized_keys, which says what its host's says (sshd(8)).

Each part of the path is opened without following links: what a container makes of its own files leads nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from proto.errors import CaasError, Code

#: The file of the host whose keys are let in.
AUTHORIZED_KEYS = Path("/root/.ssh/authorized_keys")
_FOLDERS = ("root", ".ssh")
_FILE, _NEW = "authorized_keys", ".caas-authorized_keys"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: More than any list of keys: a container cannot make its host read without end.
_SIZE_MAX = 1 << 20


def read_host_keys(path: Path) -> str | None:
    """The text of the host's own file *path*; None where nobody is let in: it is not there, or empty.

    What is no UTF-8 in it (a comment) survives as surrogate escapes (PEP 383).
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise CaasError(Code.FAILED, f"{path}: {exc.strerror}", hint="the agent reads it as root") from exc
    return text if text.strip() else None


@contextlib.contextmanager
def open_root(path: Path) -> Iterator[int]:
    """The root folder of a container, held open. FAILED where it is the machine's own: its process has ended."""
    root = os.open(path, _FOLDER)
    try:
        if os.path.samestat(os.fstat(root), os.stat("/")):
            raise CaasError(Code.FAILED, f"{path} is the machine's own root folder, no container's")
        yield root
    finally:
        os.close(root)


def has_keys(root: int, keys: str | None) -> bool:
    """Whether the container whose root folder is open as *root* lets in just *keys* (None: it has no such file)."""
    with contextlib.ExitStack() as stack:
        try:
            folder = _open_folders(stack, root, make=False)
            seen = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return keys is None
        except OSError:  # a link, or no folder: told when it is to be written
            return False
        stack.callback(os.close, seen)
        status = os.fstat(seen)
        safe = stat.S_ISREG(status.st_mode) and (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
        return safe and keys is not None and os.read(seen, _SIZE_MAX) == _encode(keys)


def write_keys(root: int, keys: str | None, *, name: str) -> int:
    """Have the container *name*, whose root folder is open as *root*, let in just *keys*; None removes the file.

    By rename: whoever logs in meanwhile is asked for the old keys or for the new. Returns the number of writes.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = _open_folders(stack, root, make=keys is not None)
            if keys is None:
                os.unlink(_FILE, dir_fd=folder)
            else:
                _replace(folder, _encode(keys))
        except FileNotFoundError:
            if keys is None:
                return 0
            raise
        except OSError as exc:
            code = Code.NO_ROOM if exc.errno == 28 else Code.FAILED
            where = "/".join(("", *_FOLDERS))
            hint = f"in the container, make {where} a folder of root's"
            raise CaasError(code, f"container {name}: {where}/{_FILE}: {exc.strerror}", hint=hint) from exc
        return 1


def _replace(folder: int, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NEW, dir_fd=folder)  # of a worker that was killed
    new = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with os.fdopen(new, "wb") as file:
        os.fchmod(new, 0o600)
        file.write(data)
    os.rename(_NEW, _FILE, src_dir_fd=folder, dst_dir_fd=folder)


def _open_folders(stack: contextlib.ExitStack, root: int, *, make: bool) -> int:
    """The folder of the file, held open by *stack*; where *make*, what is missing of it is made, for root alone."""
    folder = root
    for name in _FOLDERS:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        stack.callback(os.close, folder)
    return folder


def _encode(keys: str) -> bytes:
    return keys.encode("utf-8", errors="surrogateescape")
