"""The few things in the stack that bring a packet back to the trunk: an address, a next hop, a route, sysctls.

Each piece can be looked for, made and removed by itself; none depends on the number of VLANs. A setting that had
another value before is put back to it in the end: the memory outlives the process.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.kernel import netlink
from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.links import IFF_PROMISC, SeenLink, find_link, set_link
from agent.kernel.natbox_layout import INNER, STACK_ADDRESS
from agent.kernel.netlink import KernelError, Netlink, attr, attr_u8, parse_attrs
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.marks import ROUTE_PROTOCOL

METRIC = 20200
#: Never on a wire: natbox_out writes the real addresses.
NEXT_HOP = ipaddress.IPv4Address("240.0.0.2")
NEXT_HOP_MAC = bytes.fromhex("02caa5000001")
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
IFA_ADDRESS, IFA_LOCAL, IFA_PROTO = 1, 2, 11
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC = 1, 4, 5, 6, 7
NDA_DST, NDA_LLADDR, NDA_PROTOCOL = 1, 2, 12
SCOPE_LINK, NUD_PERMANENT, RTN_UNICAST, RTNH_F_ONLINK, TABLE_MAIN = 253, 0x80, 1, 4, 254
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


class Memory(Protocol):
    """Where the values that settings had before are kept, on disk."""

    def get(self, name: str) -> str | None: ...
    def put(self, name: str, value: str) -> None: ...
    def forget(self, name: str) -> None: ...


class Piece(Protocol):
    """One thing of the path."""

    @property
    def title(self) -> str: ...
    def is_there(self) -> bool: ...
    def make(self) -> None:
        """Make it as wanted, whatever is there of it."""

    def remove(self) -> None:
        """Already gone is success."""


def list_addresses(connection: Netlink, index: int = 0) -> list[tuple[int, ipaddress.IPv4Interface]]:
    """Every IPv4 address with its link's index; of one link where *index* is given."""
    with kernel_errors("list addresses"):
        payloads = connection.dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index))
    found = []
    for payload in payloads:
        _, prefix, _, _, link = _ADDRESS.unpack_from(payload)
        attributes = parse_attrs(payload, _ADDRESS.size)
        packed = attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS]
        found.append((int(link), ipaddress.IPv4Interface((packed, prefix))))
    return found


@dataclass(frozen=True, slots=True)
class NetlinkPiece:
    """A piece that is one netlink object: the message that makes it, the one that removes it, and how to look."""

    title: str
    connection: Netlink
    making: tuple[int, bytes]
    removing: tuple[int, bytes]
    looks: Callable[[], bool]

    def is_there(self) -> bool:
        with kernel_errors(f"look for {self.title}"):
            return self.looks()

    def make(self) -> None:
        with kernel_errors(f"create {self.title}"):
            kind, body = self.making
            self.connection.change(kind, body, flags=netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE)

    def remove(self) -> None:
        with kernel_errors(f"delete {self.title}"):
            try:
                self.connection.change(*self.removing)
            except KernelError as exc:
                if exc.errno not in _GONE:
                    raise


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting below /proc/sys/net, put back in the end to what it was."""

    path: str
    value: str
    memory: Memory
    netns: str | None
    tally: Tally

    @property
    def title(self) -> str:
        return f"sysctl {self.path}"

    def is_there(self) -> bool:
        return self._read() == self.value

    def make(self) -> None:
        if self.memory.get(self.path) is None:
            self.memory.put(self.path, self._read())
        self._write(self.value)

    def remove(self) -> None:
        before = self.memory.get(self.path)
        if before is not None:
            try:
                self._write(before)
            except CaasError as exc:
                if exc.code is not Code.NOT_FOUND:  # its link has gone, and it with it
                    raise
            self.memory.forget(self.path)

    @property
    def _file(self) -> Path:
        return Path("/proc/sys/net") / self.path

    def _read(self) -> str:
        with kernel_errors(f"read {self.title}"):
            return run_inside(self.netns, self._file.read_text).strip()

    def _write(self, value: str) -> None:
        self.tally.add()
        with kernel_errors(f"write {self.title}"):
            run_inside(self.netns, lambda: self._file.write_text(value))


@dataclass(frozen=True, slots=True)
class Promiscuity:
    """The trunk takes every VID: a card that filters VLANs knows only those that 8021q devices told it of."""

    link: SeenLink
    connection: Netlink
    memory: Memory
    title: str = "promiscuous trunk"

    def is_there(self) -> bool:
        with kernel_errors(f"look for link {self.link.name}"):
            now = find_link(self.connection, self.link.name)
        return now is not None and bool(now.flags & IFF_PROMISC)

    def make(self) -> None:
        if self.memory.get(self._key) is None:
            self.memory.put(self._key, "on" if self.is_there() else "off")
        self._set(flags=IFF_PROMISC)

    def remove(self) -> None:
        before = self.memory.get(self._key)
        if before is not None:
            if before == "off" and self.is_there():
                self._set(flags_off=IFF_PROMISC)
            self.memory.forget(self._key)

    @property
    def _key(self) -> str:
        return f"promiscuous {self.link.name}"

    def _set(self, *, flags: int = 0, flags_off: int = 0) -> None:
        kind, options, body = set_link(self.link.index, flags=flags, flags_off=flags_off)
        with kernel_errors(f"set {self.title} {self.link.name}"):
            self.connection.change(kind, body, flags=options)


def make_pieces(
    connection: Netlink, trunk: SeenLink, uplink: SeenLink, *, memory: Memory, tally: Tally
) -> tuple[Piece, ...]:
    """The path's pieces in the order they are made; they are removed in the opposite order.

    Forwarding is switched on for these two links alone: the others' is none of our business (ip-sysctl.rst).
    """
    settings = (
        (f"ipv4/conf/{trunk.name}/forwarding", "1"),
        (f"ipv4/conf/{uplink.name}/forwarding", "1"),
    )
    return (
        *(Sysctl(path, value, memory, connection.netns, tally) for path, value in settings),
        Promiscuity(trunk, connection, memory),
        _stack_address(connection, trunk),
        _next_hop(connection, trunk),
        _route(connection, trunk),
    )


def _stack_address(connection: Netlink, trunk: SeenLink) -> NetlinkPiece:
    wanted = ipaddress.IPv4Interface(f"{STACK_ADDRESS}/32")
    packed = STACK_ADDRESS.packed
    body = (
        _ADDRESS.pack(socket.AF_INET, 32, 0, SCOPE_LINK, trunk.index)
        + attr(IFA_LOCAL, packed)
        + attr(IFA_ADDRESS, packed)
        + attr_u8(IFA_PROTO, ROUTE_PROTOCOL)
    )
    return NetlinkPiece(
        f"address {wanted} on {trunk.name}",
        connection,
        (RTM_NEWADDR, body),
        (RTM_DELADDR, body),
        lambda: (trunk.index, wanted) in list_addresses(connection, trunk.index),
    )


def _next_hop(connection: Netlink, trunk: SeenLink) -> NetlinkPiece:
    destination = attr(NDA_DST, NEXT_HOP.packed)
    head = _NEIGHBOUR.pack(socket.AF_INET, trunk.index, NUD_PERMANENT, 0, 0)
    body = head + destination + attr(NDA_LLADDR, NEXT_HOP_MAC) + attr_u8(NDA_PROTOCOL, ROUTE_PROTOCOL)

    def looks() -> bool:
        # A request for one neighbour must leave its state out (neigh_valid_get_req in net/core/neighbour.c).
        asked = _NEIGHBOUR.pack(socket.AF_INET, trunk.index, 0, 0, 0) + destination
        try:
            payload = connection.ask(RTM_GETNEIGH, asked)[0]
        except KernelError as exc:
            if exc.errno == errno.ENOENT:
                return False
            raise
        _, _, state, _, _ = _NEIGHBOUR.unpack_from(payload)
        return bool(state & NUD_PERMANENT) and parse_attrs(payload, _NEIGHBOUR.size).get(NDA_LLADDR) == NEXT_HOP_MAC

    return NetlinkPiece(
        f"next hop {NEXT_HOP} on {trunk.name}",
        connection,
        (RTM_NEWNEIGH, body),
        (RTM_DELNEIGH, head + destination),
        looks,
    )


def _route(connection: Netlink, trunk: SeenLink) -> NetlinkPiece:
    flags = RTNH_F_ONLINK
    head = _ROUTE.pack(socket.AF_INET, INNER.prefixlen, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, 0, RTN_UNICAST, flags)
    wanted = {
        RTA_DST: INNER.network_address.packed,
        RTA_OIF: struct.pack("=I", trunk.index),
        RTA_GATEWAY: NEXT_HOP.packed,
        RTA_PRIORITY: struct.pack("=I", METRIC),
        RTA_PREFSRC: STACK_ADDRESS.packed,
    }
    body = head + b"".join(attr(kind, value) for kind, value in wanted.items())

    def looks() -> bool:
        asked = _ROUTE.pack(socket.AF_INET, 0, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, 0, 0, 0)
        routes = (parse_attrs(payload, _ROUTE.size) for payload in connection.dump(RTM_GETROUTE, asked))
        return any(all(route.get(kind) == value for kind, value in wanted.items()) for route in routes)

    return NetlinkPiece(f"route to {INNER}", connection, (RTM_NEWROUTE, body), (RTM_DELROUTE, body), looks)
