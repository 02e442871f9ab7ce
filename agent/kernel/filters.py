"""BPF programs at a link's ingress and egress: tc's clsact qdisc and its filters (tc-bpf(8), direct action).

A filter is replaced, not doubled, only when both its priority and its handle are given (facts.md).
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.kernel.bpf import BpfProgram
from agent.kernel.netlink import KernelError, Message, Netlink

ETH_P_ALL = 0x0003
#: Neither the filter, nor its qdisc, nor its link.
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EINVAL})


class Direction(enum.Enum):
    """Which of clsact's two hooks; the value is the filter's parent (linux/pkt_sched.h)."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Attached:
    """A BPF filter on a link. `priority` 1..65535, `handle` 1 and up, `program_id` for adopt_maps."""

    direction: Direction
    priority: int
    handle: int
    name: str
    program_id: int


def attach(
    connection: Netlink,
    ifindex: int,
    direction: Direction,
    program: BpfProgram,
    *,
    priority: int,
    handle: int = 1,
    name: str = "",
) -> None:
    """Put *program* at that place of the link, in the place of whatever filter is there. Raises KernelError."""
    _check_place(priority, handle)
    add_clsact(connection, ifindex)
    connection.change(
        lambda route: route.tc(
            "replace-filter",
            "bpf",
            index=ifindex,
            handle=handle,
            parent=direction.value,
            prio=priority,
            protocol=ETH_P_ALL,
            fd=program.fd,
            name=name or program.name,
            direct_action=True,
        )
    )


def detach(connection: Netlink, ifindex: int, direction: Direction, *, priority: int, handle: int = 1) -> bool:
    """Take the filter away. False where it, its qdisc or its link was not there. The clsact qdisc stays."""
    _check_place(priority, handle)
    try:
        connection.change(
            lambda route: route.tc(
                "del-filter",
                "bpf",
                index=ifindex,
                handle=handle,
                parent=direction.value,
                prio=priority,
                protocol=ETH_P_ALL,
            )
        )
    except KernelError as exc:
        if exc.errno in _GONE:
            return False
        raise
    return True


def detach_last(connection: Netlink, ifindex: int, direction: Direction, *, priority: int, handle: int = 1) -> None:
    """Take the filter away, and the clsact qdisc with it where nobody else has a filter on the link. Already gone is
    success.

    In one request then: who is killed between two would leave a qdisc of which nobody knows whose it is.
    """
    mine = {(direction, priority, 0), (direction, priority, handle)}  # 0: the priority's own entry
    if has_clsact(connection, ifindex) and not list_places(connection, ifindex) - mine:
        remove_clsact(connection, ifindex)
    else:
        detach(connection, ifindex, direction, priority=priority, handle=handle)


def list_places(connection: Netlink, ifindex: int) -> set[tuple[Direction, int, int]]:
    """Where filters of any kind are: direction, priority, handle."""
    return {
        (direction, priority, handle)
        for direction in Direction
        for priority, handle in connection.dump(
            lambda route, at=direction: route.tc("get-filter", index=ifindex, parent=at.value),  # type: ignore[misc]
            lambda message: (int(message["info"]) >> 16, int(message["handle"])),
        )
    }


def list_attached(
    connection: Netlink, ifindex: int, directions: Iterable[Direction] = tuple(Direction)
) -> Sequence[Attached]:
    """Every BPF filter on the link, in *directions*, by priority. Empty where the link or its clsact is not there."""
    found = []
    for direction in directions:
        try:
            filters = _dump(connection, ifindex, direction)
        except KernelError as exc:
            if exc.errno in _GONE:
                continue
            raise
        found += [each for each in filters if each is not None]
    return sorted(found, key=lambda each: (each.direction.value, each.priority, each.handle))


def add_clsact(connection: Netlink, ifindex: int) -> bool:
    """Give the link a clsact qdisc. False where it has one. KernelError (EEXIST) where `ingress` is there."""
    try:
        connection.change(lambda route: route.tc("add", "clsact", index=ifindex))
    except KernelError as exc:
        if exc.errno == errno.EEXIST and has_clsact(connection, ifindex):
            return False
        raise
    return True


def has_clsact(connection: Netlink, ifindex: int) -> bool:
    """Whether the link has a clsact qdisc (an `ingress` one stands in the same place and has no egress)."""
    kinds = connection.dump(lambda route: route.tc("dump", index=ifindex), lambda message: message.get_attr("TCA_KIND"))
    return "clsact" in kinds


def remove_clsact(connection: Netlink, ifindex: int) -> bool:
    """Take the clsact qdisc and all its filters away. False where there is none."""
    try:
        connection.change(lambda route: route.tc("del", "clsact", index=ifindex))
    except KernelError as exc:
        if exc.errno in _GONE:
            return False
        raise
    return True


def _check_place(priority: int, handle: int) -> None:
    if not 1 <= priority <= 0xFFFF or handle < 1:
        raise ValueError(f"a filter needs a priority of 1..65535 and a handle above 0, not {priority} and {handle}")


def _dump(connection: Netlink, ifindex: int, direction: Direction) -> list[Attached | None]:
    """Every filter there; None for one of another kind than ours, or that is a priority's own entry."""
    return connection.dump(
        lambda route: route.tc("get-filter", index=ifindex, parent=direction.value),
        lambda message: _attached(message, direction),
    )


def _attached(message: Message, direction: Direction) -> Attached | None:
    if message.get_attr("TCA_KIND") != "bpf" or not (options := message.get_attr("TCA_OPTIONS")):
        return None
    program_id = options.get_attr("TCA_BPF_ID")
    if program_id is None:
        return None
    name = options.get_attr("TCA_BPF_NAME") or ""
    return Attached(direction, message["info"] >> 16, message["handle"], name, program_id)
