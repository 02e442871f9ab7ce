"""Every failure that leaves a function on purpose is a CaasError: a code for programs, a message that names
the object, and a hint for people.

    CaasError
      INVALID       the file or the call is wrong; nothing was touched
      NOT_FOUND     a named object does not exist
      CONFLICT      the name, address or number is taken
      NOT_OWNED     an object of our name lacks our mark
      UNSUPPORTED   this kernel or machine cannot do it
      REFUSED       it would remove, move or restart something that runs
      NO_ROOM       memory, disk, inotify instances, bridge ports
      STALE         an older generation than the one in force
      BUSY          another operation holds the object            (retry)
      UNREACHABLE   the process on the other side did not answer  (retry)
      TIMEOUT       it took longer than its deadline              (retry)
      UNVERIFIED    done, but the host does not show it
      FAILED        anything else; the message says what was run and what it said
"""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """What a program can decide on. The value is the name used on the wire."""

    INVALID = "invalid"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    NOT_OWNED = "not-owned"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    NO_ROOM = "no-room"
    STALE = "stale"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    UNVERIFIED = "unverified"
    FAILED = "failed"

    @property
    def retryable(self) -> bool:
        """True where the same call may succeed later with nothing changed by the caller."""
        return self in (Code.BUSY, Code.UNREACHABLE, Code.TIMEOUT)

    @property
    def exit_status(self) -> int:
        """The command line's exit status: 2 where the file or the call is wrong or refused, else 1."""
        return 2 if self in (Code.INVALID, Code.REFUSED) else 1


class CaasError(Exception):
    """A failure with a code, a message that names the object, and a hint ("" where there is none)."""

    def __init__(self, code: Code, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (LXC workers): plain fields only.
        return (_rebuild, (self.code, self.message, self.hint))

    def __str__(self) -> str:
        return self.message

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CaasError) and (self.code, self.message, self.hint) == (
            other.code,
            other.message,
            other.hint,
        )

    def __hash__(self) -> int:
        return hash((self.code, self.message, self.hint))

    def about(self, where: str) -> CaasError:
        """The same failure with *where* (a host, a file) in front of its message."""
        return CaasError(self.code, f"{where}: {self.message}", hint=self.hint)


def _rebuild(code: Code, message: str, hint: str) -> CaasError:
    return CaasError(code, message, hint=hint)


def invalid(message: str, *, hint: str = "") -> CaasError:
    """A CaasError with code INVALID: the commonest kind of all."""
    return CaasError(Code.INVALID, message, hint=hint)
