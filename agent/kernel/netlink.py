"""The netlink socket of a network namespace: a pyroute2 IPRoute in a thread of its own.

IPRoute keeps its socket and its event loop for the thread that made it, refuses a thread with a running event loop,
opens a socket for every other thread that calls, and forks to reach another namespace. So one thread has it, in the
namespace for good, and every caller's request runs there: callers may be any threads, with or without a loop.
"""

from __future__ import annotations

import contextlib
import errno
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pyroute2 import IPBatch, IPRoute
from pyroute2.netlink import NETLINK_EXT_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, SOL_NETLINK
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWTFILTER
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from agent.kernel.filter_message import FilterMessage
from agent.kernel.inside import Resident
from agent.kernel.tally import Tally

DUMP_TRIES = 10
#: In the place of IPRoute's "get", which also asks for an acknowledgement that nobody reads and that stays in memory
#: for good, and of its "dump", which takes longer and cannot leave the choice to the kernel.
GET, DUMP = NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_DUMP
T = TypeVar("T")
#: One call of an IPRoute's, such as `lambda route: route.link("del", index=7)`.
Request = Callable[[IPRoute], object]
#: A message that pyroute2 has read; it has no types.
Message = Any


class KernelError(OSError):
    """The kernel said no: `errno`, and in `strerror` its own words where it has some."""


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn pyroute2's NetlinkError into a KernelError."""
    try:
        yield
    except NetlinkError as exc:
        raise KernelError(exc.code, exc.args[1]) from exc


def read_attributes(message: Message) -> dict[str, Any]:
    """The attributes of *message* by name, undecoded until asked for their `value`; of several of one name, the last.

    Its get_attr() goes through all of them each time.
    """
    return {each.name: each for each in message["attrs"]}


class RouteMarshal(MarshalRtnl):  # type: ignore[misc]
    """Also notes interrupted dumps, which pyroute2 hands out as if they were whole, and reads a filter's program."""

    msg_map = {**MarshalRtnl.msg_map, RTM_NEWTFILTER: FilterMessage}

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = False

    def fix_message(self, msg: Message) -> None:
        super().fix_message(msg)
        self.interrupted = self.interrupted or bool(msg["header"]["flags"] & NLM_F_DUMP_INTR)


class Netlink:
    """An IPRoute of the caller's network namespace or of *netns*, for good.

    Safe for several threads: one call at a time. Changing calls are counted in *tally*. Raises KernelError, and
    CaasError (NOT_FOUND) where there is no such namespace.
    """

    def __init__(self, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self.netns = netns
        self.tally = tally if tally is not None else Tally()
        self._batch: IPBatch | None = None
        self._thread = Resident(netns, name="netlink")
        try:
            self._thread.run(self._open)
        except BaseException:
            self._thread.close()
            raise

    def close(self) -> None:
        """Close the sockets; a second time changes nothing."""
        with contextlib.suppress(OSError):  # closed before
            self._thread.run(self._close)
        self._thread.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, request: Callable[[IPRoute], T]) -> T:
        """What a request that changes nothing and is no dump returns. Raises KernelError."""
        return self._thread.run(lambda: self._call(request))

    def change(self, request: Request) -> None:
        """A changing request. Raises KernelError."""
        self.tally.add()
        self._thread.run(lambda: self._call(request))

    def change_together(self, requests: Sequence[Request]) -> None:
        """Changing requests in one datagram, in their order. All are tried; raises the first KernelError."""
        self.tally.add(len(requests))
        self._thread.run(lambda: self._call(lambda _: self._send_together(requests)))

    def dump(self, request: Callable[[IPRoute], Iterable[Message]], read: Callable[[Message], T]) -> list[T]:
        """*read* of every object of a dump. An interrupted dump is taken again.

        Raises KernelError; EINTR where objects kept changing for ten dumps.
        """
        for _ in range(DUMP_TRIES):
            found, interrupted = self._thread.run(lambda: self._call(lambda route: self._dump(route, request, read)))
            if not interrupted:
                return found
        raise KernelError(errno.EINTR, f"the dump was interrupted {DUMP_TRIES} times")

    def _dump(
        self, route: IPRoute, request: Callable[[IPRoute], Iterable[Message]], read: Callable[[Message], T]
    ) -> tuple[list[T], bool]:
        self._marshal.interrupted = False
        # A message of pyroute2's is hundreds of objects that refer to themselves: with hundreds of messages, collecting
        # while they are made takes as long as making them. One collection after it frees them all.
        gc.disable()
        try:
            return [read(message) for message in request(route)], self._marshal.interrupted
        finally:
            gc.enable()

    def _call(self, request: Callable[[IPRoute], T]) -> T:
        with refusals():
            try:
                return request(self._route)
            except OSError:
                # The socket's own failure, after which pyroute2 refuses everything else (its IPRSocket says so).
                with contextlib.suppress(OSError):
                    self._close()
                self._open()
                raise

    def _send_together(self, requests: Sequence[Request]) -> None:
        """IPBatch compiles; the answers come in the requests' order, each in a datagram of its own."""
        if self._batch is None:
            self._batch = IPBatch()
            self._batch.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        refused: NetlinkError | None = None
        try:
            for request in requests:
                request(self._batch)
            self._batch.sendto(self._batch.batch, (0, 0))
        finally:
            self._batch.reset()
        for _ in requests:
            try:
                self._batch.get()
            except NetlinkError as exc:
                refused = refused or exc
        if refused is not None:
            raise refused

    def _open(self) -> None:
        self._marshal = RouteMarshal()
        self._route = IPRoute(ext_ack=True, strict_check=True)
        self._route.set_marshal(self._marshal)

    def _close(self) -> None:
        self._route.close()
        if self._batch is not None:
            self._batch.close()
            self._batch = None
