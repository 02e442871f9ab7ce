"""BPF programs at a link's ingress and egress: tc's clsact qdisc and its filters (tc-bpf(8), direct action).

A filter is replaced, not doubled, only when both its priority and its handle are given (facts.md).
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.kernel import netlink
from agent.kernel.bpf import BpfProgram
from agent.kernel.netlink import KernelError, Netlink

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID = 6, 7, 8, 11
TCA_BPF_FLAG_ACT_DIRECT = 1
CLSACT_HANDLE, CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
ETH_P_ALL = socket.htons(0x0003)
_TCMSG = struct.Struct("=BxHiIII")


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
    add_clsact(connection, ifindex)
    options = netlink.nested(
        TCA_OPTIONS,
        netlink.attr_u32(TCA_BPF_FD, program.fd),
        netlink.attr_text(TCA_BPF_NAME, name or program.name),
        netlink.attr_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
    body = _place(ifindex, direction, priority, handle) + netlink.attr_text(TCA_KIND, "bpf") + options
    connection.change(RTM_NEWTFILTER, body, flags=netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE)


def detach(connection: Netlink, ifindex: int, direction: Direction, *, priority: int, handle: int = 1) -> bool:
    """Take the filter away. False where it, its qdisc or its link was not there. The clsact qdisc stays."""
    body = _place(ifindex, direction, priority, handle) + netlink.attr_text(TCA_KIND, "bpf")
    try:
        connection.change(RTM_DELTFILTER, body)
    except KernelError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            return False
        raise
    return True


def list_attached(
    connection: Netlink, ifindex: int, directions: Iterable[Direction] = tuple(Direction)
) -> Sequence[Attached]:
    """Every BPF filter on the link, in *directions*, by priority. Empty where the link or its clsact is not there."""
    found = []
    for direction in directions:
        body = _TCMSG.pack(0, 0, ifindex, 0, direction.value, 0)
        try:
            payloads = connection.dump(RTM_GETTFILTER, body)
        except KernelError as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                continue
            raise
        found += [each for payload in payloads if (each := _attached(payload, direction))]
    return sorted(found, key=lambda each: (each.direction.value, each.priority, each.handle))


def has_filters(connection: Netlink, ifindex: int) -> bool:
    """Whether any filter of any kind, anybody's, is at the link's ingress or egress."""
    return any(connection.dump(RTM_GETTFILTER, _TCMSG.pack(0, 0, ifindex, 0, each.value, 0)) for each in Direction)


def add_clsact(connection: Netlink, ifindex: int) -> bool:
    """Give the link a clsact qdisc. False where it has one. KernelError (EEXIST) where `ingress` is there."""
    body = _TCMSG.pack(0, 0, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0) + netlink.attr_text(TCA_KIND, "clsact")
    try:
        connection.change(RTM_NEWQDISC, body, flags=netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)
    except KernelError as exc:
        if exc.errno == errno.EEXIST and has_clsact(connection, ifindex):
            return False
        raise
    return True


def has_clsact(connection: Netlink, ifindex: int) -> bool:
    """Whether the link has a clsact qdisc (an `ingress` one stands in the same place and has no egress)."""
    payloads = connection.dump(RTM_GETQDISC, _TCMSG.pack(0, 0, ifindex, 0, 0, 0))
    kinds = {netlink.text_of(netlink.parse_attrs(payload, _TCMSG.size).get(TCA_KIND)) for payload in payloads}
    return "clsact" in kinds


def remove_clsact(connection: Netlink, ifindex: int) -> bool:
    """Take the clsact qdisc and all its filters away. False where there is none."""
    body = _TCMSG.pack(0, 0, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0)
    try:
        connection.change(RTM_DELQDISC, body)
    except KernelError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            return False
        raise
    return True


def _place(ifindex: int, direction: Direction, priority: int, handle: int) -> bytes:
    if not 1 <= priority <= 0xFFFF or handle < 1:
        raise ValueError(f"a filter needs a priority of 1..65535 and a handle above 0, not {priority} and {handle}")
    return _TCMSG.pack(0, 0, ifindex, handle, direction.value, priority << 16 | ETH_P_ALL)


def _attached(payload: bytes, direction: Direction) -> Attached | None:
    _, _, _, handle, _, info = _TCMSG.unpack_from(payload)
    found = netlink.parse_attrs(payload, _TCMSG.size)
    options = netlink.parse_attrs(found.get(TCA_OPTIONS, b""))
    if netlink.text_of(found.get(TCA_KIND)) != "bpf" or TCA_BPF_ID not in options:
        return None  # another kind of filter, or the priority's own entry, which has no program
    return Attached(
        direction,
        info >> 16,
        handle,
        netlink.text_of(options.get(TCA_BPF_NAME)),
        netlink.u32_of(options.get(TCA_BPF_ID)),
    )
