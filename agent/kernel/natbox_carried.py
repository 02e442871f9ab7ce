"""The connections that go with a NATBox: those with an inner address, listed, ended, or made anew, many at a time."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.kernel import natbox_conntrack as wire
from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.natbox_layout import INNER
from agent.kernel.tally import Tally
from proto.model import Connection

NETLINK_NETFILTER, SOL_NETLINK, NETLINK_CAP_ACK = 12, 270, 10
#: Answers to as many messages fit into the socket's buffer, each with its message's header.
AT_ONCE = 200
ROOM = 4 << 20
DUMP_TRIES = 5
_FIRST, _LAST = int(INNER.network_address), int(INNER.broadcast_address)
Maker = Callable[..., bytes]


class Carried:
    """Conntrack of the namespace *netns* (None: the caller's). Safe for several threads. Raises CaasError."""

    def __init__(self, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self._tally = tally if tally is not None else Tally()
        self._lock = threading.Lock()
        self._sequence = 0
        with kernel_errors("open conntrack's netlink socket"):
            self._socket = run_inside(netns, _open)

    def close(self) -> None:
        """Close the socket; a second time changes nothing."""
        self._socket.close()

    def list_all(self) -> list[Connection]:
        """Every connection of a container's that can be handed over."""
        with self._lock, uncollected(), kernel_errors("list connections"):
            for _ in range(DUMP_TRIES):
                found = self._dump()
                if found is not None:
                    return found
            raise OSError(errno.EINTR, f"the dump was interrupted {DUMP_TRIES} times")

    def enter(self, connections: Sequence[Connection]) -> Counter[str]:
        """Make *connections* anew; how many the kernel did not take, by its words."""
        self._tally.add(len(connections))
        with self._lock, kernel_errors("enter connections"):
            return self._send(wire.make_new, connections)

    def end(self, connections: Sequence[Connection]) -> None:
        """End *connections*. Already over is success."""
        self._tally.add(len(connections))
        with self._lock, kernel_errors("end connections"):
            self._send(wire.make_delete, connections)

    def _dump(self) -> list[Connection] | None:
        """None where the table was being resized meanwhile."""
        self._sequence += 1
        self._socket.send(wire.make_dump(self._sequence))
        found, interrupted = [], False
        for kind, flags, body in self._answers():
            interrupted = interrupted or bool(flags & wire.DUMP_INTERRUPTED)
            if kind in (wire.NLMSG_DONE, wire.NLMSG_ERROR):
                _check(wire.read_error(body))
                break
            connection = wire.read_connection(body)
            if connection is not None and is_inner(connection):
                found.append(connection)
        return None if interrupted else found

    def _send(self, make: Maker, connections: Sequence[Connection]) -> Counter[str]:
        refused: Counter[str] = Counter()
        for start in range(0, len(connections), AT_ONCE):
            some = connections[start : start + AT_ONCE]
            self._sequence += 1
            # Refusals are told in any case; assent only to the last, which is how the end is known.
            last = make(some[-1], self._sequence, flags=wire.ACK)
            self._socket.send(b"".join([*(make(each, 0) for each in some[:-1]), last]))
            for sequence, error in self._errors():
                if error and error != errno.ENOENT:
                    refused[os.strerror(error)] += 1
                if sequence == self._sequence:
                    break
        return refused

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """What answers the last request. What is left of an earlier one that failed half-way is passed over."""
        while True:
            for kind, flags, sequence, body in wire.read_messages(self._socket.recv(ROOM)):
                if sequence == self._sequence:
                    yield kind, flags, body

    def _errors(self) -> Iterator[tuple[int, int]]:
        while True:
            for kind, _, sequence, body in wire.read_messages(self._socket.recv(ROOM)):
                if kind == wire.NLMSG_ERROR and sequence in (0, self._sequence):
                    yield sequence, wire.read_error(body)


@contextmanager
def uncollected() -> Iterator[None]:
    """For making very many small objects, none of which refers to another: looking for cycles among them takes half as
    long as making them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_inner(connection: Connection) -> bool:
    """Whether a container has part in it."""
    there, back = connection.original, connection.reply
    return _FIRST <= there.source <= _LAST or _FIRST <= back.source <= _LAST


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    opened.settimeout(10)
    opened.bind((0, 0))
    return opened
