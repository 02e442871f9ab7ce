"""The one place where the kernel's errno becomes a CaasError. What it does not know, it re-raises."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proto.errors import CaasError, Code

log = logging.getLogger(__name__)

_CODES = {
    errno.EEXIST: Code.CONFLICT,
    errno.EADDRINUSE: Code.CONFLICT,
    errno.ENODEV: Code.NOT_FOUND,
    errno.ENOENT: Code.NOT_FOUND,
    errno.ESRCH: Code.NOT_FOUND,
    errno.ENETUNREACH: Code.NOT_FOUND,
    errno.EADDRNOTAVAIL: Code.NOT_FOUND,
    errno.EOPNOTSUPP: Code.UNSUPPORTED,
    errno.EAFNOSUPPORT: Code.UNSUPPORTED,
    errno.EPROTONOSUPPORT: Code.UNSUPPORTED,
    errno.EPERM: Code.UNSUPPORTED,
    errno.EACCES: Code.UNSUPPORTED,
    errno.EBUSY: Code.BUSY,
    errno.EINTR: Code.BUSY,
    errno.EAGAIN: Code.BUSY,
    errno.ENOMEM: Code.NO_ROOM,
    errno.ENOBUFS: Code.NO_ROOM,
    errno.ENOSPC: Code.NO_ROOM,
    errno.EMFILE: Code.NO_ROOM,
    errno.EXFULL: Code.NO_ROOM,  # a bridge has at most 1,023 ports
    errno.EINVAL: Code.FAILED,
    errno.ENETDOWN: Code.FAILED,
    errno.ERANGE: Code.FAILED,
}
_HINTS = {
    errno.EPERM: "run it as root, or with CAP_NET_ADMIN and CAP_BPF",
    errno.EACCES: "run it as root, or with CAP_NET_ADMIN and CAP_BPF",
    errno.EXFULL: "a bridge takes 1,023 ports: use another network for further containers",
}


@contextmanager
def kernel_errors(what: str, *, hint: str = "") -> Iterator[None]:
    """Turn an OSError of the body into a CaasError whose message begins with *what* ("create vlan eth1.100")."""
    try:
        yield
    except OSError as exc:
        code = _CODES.get(exc.errno or 0)
        if code is None:
            raise
        raise CaasError(code, f"{what}: {exc.strerror}", hint=hint or _HINTS.get(exc.errno or 0, "")) from exc


def take_back(undo: Callable[..., object], *arguments: object) -> None:
    """*undo(*arguments)* after a failure: logged where it fails too, so that it never replaces the first one."""
    try:
        undo(*arguments)
    except (CaasError, OSError) as exc:
        log.warning("taking back what was begun: %s: %s", undo.__name__, exc)
