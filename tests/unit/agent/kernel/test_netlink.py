"""The thread that has the socket, the kernel's words, interrupted dumps: what pyroute2 leaves to its user."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETLINK

from agent.kernel import netlink
from agent.kernel.netlink import DUMP, GET, KernelError, Message, Netlink, RouteMarshal, refusals
from proto.errors import CaasError, Code

DONE, NEWLINK, MULTI, INTERRUPTED = 3, 16, 2, 0x10
BODY = struct.pack("=BxHiII", 0, 1, 7, 0, 0)


@pytest.fixture
def connection() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


def reply(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def list_names(connection: Netlink) -> list[str]:
    return connection.dump(
        lambda route: route.link((RTM_GETLINK, DUMP)), lambda link: str(link.get_attr("IFLA_IFNAME"))
    )


@pytest.mark.parametrize(
    ("answer", "interrupted"),
    [
        (reply(NEWLINK, MULTI, BODY) + reply(DONE, MULTI, bytes(4)), False),
        (reply(NEWLINK, MULTI | INTERRUPTED, BODY) + reply(DONE, MULTI, bytes(4)), True),
        (reply(NEWLINK, MULTI, BODY) + reply(DONE, MULTI | INTERRUPTED, bytes(4)), True),
    ],
    ids=["whole", "in an object", "at the end"],
)
def test_an_interruption_is_seen_in_an_object_and_at_the_end(answer: bytes, interrupted: bool) -> None:
    marshal = RouteMarshal()
    assert [each["header"]["type"] for each in marshal.parse(answer)] == [NEWLINK, DONE]
    assert marshal.interrupted is interrupted


def interrupting(connection: Netlink, times: int) -> Callable[[IPRoute], list[Message]]:
    """A dump that is interrupted that many times; its only object is how often it was taken."""
    taken = []

    def request(route: IPRoute) -> list[Message]:
        taken.append(route)
        flags = INTERRUPTED if len(taken) <= times else 0
        list(route.marshal.parse(reply(DONE, MULTI | flags, bytes(4))))
        return [len(taken)]

    return request


def test_an_interrupted_dump_is_taken_again(connection: Netlink) -> None:
    assert connection.dump(interrupting(connection, 0), lambda each: each) == [1]
    assert connection.dump(interrupting(connection, 2), lambda each: each) == [3]


def test_a_dump_that_is_always_interrupted_is_given_up(connection: Netlink) -> None:
    with pytest.raises(KernelError, match="10 times") as caught:
        connection.dump(interrupting(connection, netlink.DUMP_TRIES), lambda each: each)
    assert caught.value.errno == errno.EINTR


def test_the_kernels_own_words_are_in_the_error() -> None:
    with pytest.raises(KernelError, match="VLAN device already exists") as caught, refusals():
        raise NetlinkError(errno.EEXIST, "VLAN device already exists")
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(KernelError, match=os.strerror(errno.EPERM)), refusals():
        raise NetlinkError(errno.EPERM)


def test_a_real_kernel_answers_without_privilege_and_to_several_threads(connection: Netlink) -> None:
    names: list[bool] = []

    def look() -> None:
        names.extend("lo" in list_names(connection) for _ in range(20))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == [True] * 80
    with pytest.raises(KernelError) as caught:
        connection.ask(lambda route: route.link((RTM_GETLINK, GET), ifname="no-such-link"))
    assert caught.value.errno == errno.ENODEV
    assert connection.tally.writes == 0


async def test_a_caller_may_have_a_running_event_loop() -> None:
    assert asyncio.get_running_loop().is_running()
    with Netlink() as connection:
        assert "lo" in list_names(connection)


def test_nothing_that_nobody_reads_is_kept(connection: Netlink) -> None:
    for _ in range(20):
        connection.ask(lambda route: route.link((RTM_GETLINK, GET), ifname="lo"))
        list_names(connection)
    assert connection.ask(lambda route: route.asyncore.msg_queue.root.qsize()) == 0
    assert len(connection.ask(lambda route: route.asyncore.msg_queue.queues)) == 1


def test_requests_that_go_together_are_all_tried_and_counted(connection: Netlink) -> None:
    # Index 0 is no link's, and a change of nothing needs no privilege to be refused.
    tried = []

    def fail(number: int) -> Callable[[IPRoute], object]:
        def request(route: IPRoute) -> None:
            tried.append(number)
            route.link("del", index=(1 << 30) + number)

        return request

    for _ in range(3):
        with pytest.raises(KernelError):
            connection.change_together([fail(1), fail(2), fail(3)])
    assert tried == [1, 2, 3] * 3
    assert connection.tally.writes == 9
    assert "lo" in list_names(connection)


def test_a_socket_that_failed_is_opened_anew(connection: Netlink) -> None:
    def fail(route: IPRoute) -> None:
        route.close()
        raise OSError(errno.ENOBUFS, "no buffer space")

    with pytest.raises(OSError, match="no buffer space"):
        connection.ask(fail)
    assert "lo" in list_names(connection)


def test_a_closed_connection_says_so_and_leaves_nothing_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    Netlink().close()
    before, threads = count(), threading.active_count()
    for _ in range(5):
        opened = Netlink()
        list_names(opened)
        with pytest.raises(KernelError):
            opened.change_together([lambda route: route.link("del", index=1 << 30)])
        opened.close()
        opened.close()
        with pytest.raises(OSError, match="closed") as caught:
            list_names(opened)
        assert caught.value.errno == errno.EBADF
    assert (count(), threading.active_count()) == (before, threads)


def test_a_namespace_that_does_not_exist_is_named() -> None:
    before = threading.active_count()
    with pytest.raises(CaasError, match="no-such-namespace") as caught:
        Netlink(netns="no-such-namespace")
    assert caught.value.code is Code.NOT_FOUND
    assert threading.active_count() == before
