"""The few things in the stack that bring a packet back to the trunk: an address, a next hop, a route, sysctls.

Each piece can be looked for, made and removed by itself; none depends on the number of VLANs. A setting that had
another value before is put back to it in the end: the memory outlives the process.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET
from typing import Protocol

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import RTM_GETNEIGH, RTM_GETROUTE

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.layer3 import read_interface
from agent.kernel.links import IFF_PROMISC, SeenLink, find_link, set_link
from agent.kernel.natbox_layout import INNER, STACK_ADDRESS
from agent.kernel.netlink import DUMP, GET, KernelError, Message, Netlink, Request
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.marks import ROUTE_PROTOCOL

METRIC = 20200
#: Never on a wire: natbox_out writes the real addresses.
NEXT_HOP = ipaddress.IPv4Address("240.0.0.2")
NEXT_HOP_MAC = "02:ca:a5:00:00:01"
SCOPE_LINK, NUD_PERMANENT, RTN_UNICAST, RTNH_F_ONLINK, TABLE_MAIN = 253, 0x80, 1, 4, 254
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


class Memory(Protocol):
    """Where the values that settings had before are kept, on disk."""

    def get(self, name: str) -> str | None: ...
    def put(self, name: str, value: str) -> None: ...
    def forget(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SeenPiece:
    """What one look at a piece shows: whether it is as wanted, and whether there is something for `remove` to do."""

    is_there: bool
    is_left: bool


class Piece(Protocol):
    """One thing of the path."""

    @property
    def title(self) -> str: ...
    def look(self) -> SeenPiece: ...
    def make(self) -> None:
        """Make it as wanted, whatever is there of it."""

    def remove(self) -> None:
        """Already gone is success."""


def list_addresses(connection: Netlink, index: int = 0) -> list[tuple[int, ipaddress.IPv4Interface]]:
    """Every IPv4 address with its link's index; of one link where *index* is given."""
    with kernel_errors("list addresses"):
        found = connection.dump(
            lambda route: route.addr("dump", family=AF_INET),
            lambda message: (int(message["index"]), read_interface(message)),
        )
    return [(link, address) for link, address in found if index in (0, link)]


@dataclass(frozen=True, slots=True)
class NetlinkPiece:
    """A piece that is one netlink object: the request that makes it, the one that removes it, and how to look."""

    title: str
    connection: Netlink
    making: Request
    removing: Request
    looks: Callable[[], bool]

    def look(self) -> SeenPiece:
        with kernel_errors(f"look for {self.title}"):
            found = self.looks()
        return SeenPiece(is_there=found, is_left=found)

    def make(self) -> None:
        with kernel_errors(f"create {self.title}"):
            self.connection.change(self.making)

    def remove(self) -> None:
        with kernel_errors(f"delete {self.title}"):
            try:
                self.connection.change(self.removing)
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

    def look(self) -> SeenPiece:
        """It is left also where a boot has put it back already; not where it was so before us."""
        return SeenPiece(is_there=self.is_there(), is_left=self.memory.get(self.path) is not None)

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
    """The trunk takes every VID: a card that filters VLANs knows only those that 8021q devices told it of.

    *link* is the trunk as it was when the path was looked at.
    """

    link: SeenLink
    connection: Netlink
    memory: Memory
    title: str = "promiscuous trunk"

    def look(self) -> SeenPiece:
        return SeenPiece(is_there=bool(self.link.flags & IFF_PROMISC), is_left=self.memory.get(self._key) is not None)

    def make(self) -> None:
        if self.memory.get(self._key) is None:
            self.memory.put(self._key, "on" if self.look().is_there else "off")
        self._set(flags=IFF_PROMISC)

    def remove(self) -> None:
        before = self.memory.get(self._key)
        if before is not None:
            with kernel_errors(f"look for link {self.link.name}"):
                now = find_link(self.connection, self.link.name)
            if before == "off" and now is not None and now.flags & IFF_PROMISC:
                self._set(flags_off=IFF_PROMISC)
            self.memory.forget(self._key)

    @property
    def _key(self) -> str:
        return f"promiscuous {self.link.name}"

    def _set(self, *, flags: int = 0, flags_off: int = 0) -> None:
        with kernel_errors(f"set {self.title} {self.link.name}"):
            self.connection.change(set_link(self.link.index, flags=flags, flags_off=flags_off))


def make_pieces(
    connection: Netlink,
    trunk: SeenLink,
    uplink: SeenLink,
    *,
    addresses: Collection[tuple[int, ipaddress.IPv4Interface]],
    memory: Memory,
    tally: Tally,
) -> tuple[Piece, ...]:
    """The path's pieces in the order they are made; they are removed in the opposite order.

    Trunk, uplink and *addresses* (list_addresses) are as they were when the path was looked at.

    Forwarding is switched on for these two links alone: the others' is none of our business (ip-sysctl.rst).
    """
    settings = (
        (f"ipv4/conf/{trunk.name}/forwarding", "1"),
        (f"ipv4/conf/{uplink.name}/forwarding", "1"),
    )
    return (
        *(Sysctl(path, value, memory, connection.netns, tally) for path, value in settings),
        Promiscuity(trunk, connection, memory),
        _stack_address(connection, trunk, addresses),
        _next_hop(connection, trunk),
        _route(connection, trunk),
    )


def _stack_address(
    connection: Netlink, trunk: SeenLink, addresses: Collection[tuple[int, ipaddress.IPv4Interface]]
) -> NetlinkPiece:
    wanted = ipaddress.IPv4Interface(f"{STACK_ADDRESS}/32")

    def request(command: str) -> Request:
        return lambda route: route.addr(
            command,
            family=AF_INET,
            index=trunk.index,
            address=str(STACK_ADDRESS),
            prefixlen=32,
            scope=SCOPE_LINK,
            proto=ROUTE_PROTOCOL,
        )

    return NetlinkPiece(
        f"address {wanted} on {trunk.name}",
        connection,
        request("replace"),
        request("del"),
        lambda: (trunk.index, wanted) in addresses,
    )


def _next_hop(connection: Netlink, trunk: SeenLink) -> NetlinkPiece:
    def make(route: IPRoute) -> object:
        return route.neigh(
            "replace",
            family=AF_INET,
            ifindex=trunk.index,
            dst=str(NEXT_HOP),
            lladdr=NEXT_HOP_MAC,
            state=NUD_PERMANENT,
            protocol=ROUTE_PROTOCOL,
        )

    def look(route: IPRoute) -> Sequence[Message]:
        # A request for one neighbour must leave its state out (neigh_valid_get_req in net/core/neighbour.c).
        found: Sequence[Message] = route.neigh(
            (RTM_GETNEIGH, GET), family=AF_INET, ifindex=trunk.index, dst=str(NEXT_HOP), state=0
        )
        return found

    def looks() -> bool:
        try:
            (message,) = connection.ask(look)
        except KernelError as exc:
            if exc.errno == errno.ENOENT:
                return False
            raise
        return bool(message["state"] & NUD_PERMANENT) and message.get_attr("NDA_LLADDR") == NEXT_HOP_MAC

    return NetlinkPiece(
        f"next hop {NEXT_HOP} on {trunk.name}",
        connection,
        make,
        lambda route: route.neigh("del", family=AF_INET, ifindex=trunk.index, dst=str(NEXT_HOP)),
        looks,
    )


def _route(connection: Netlink, trunk: SeenLink) -> NetlinkPiece:
    def request(command: str) -> Request:
        return lambda route: route.route(
            command,
            family=AF_INET,
            dst=str(INNER),
            oif=trunk.index,
            gateway=str(NEXT_HOP),
            priority=METRIC,
            prefsrc=str(STACK_ADDRESS),
            table=TABLE_MAIN,
            proto=ROUTE_PROTOCOL,
            type=RTN_UNICAST,
            flags=RTNH_F_ONLINK,
        )

    wanted = {
        "RTA_DST": str(INNER.network_address),
        "RTA_OIF": trunk.index,
        "RTA_GATEWAY": str(NEXT_HOP),
        "RTA_PRIORITY": METRIC,
        "RTA_PREFSRC": str(STACK_ADDRESS),
    }

    def looks() -> bool:
        return any(
            connection.dump(
                lambda route: route.route((RTM_GETROUTE, DUMP), family=AF_INET, table=TABLE_MAIN, proto=ROUTE_PROTOCOL),
                lambda message: all(message.get_attr(name) == value for name, value in wanted.items()),
            )
        )

    return NetlinkPiece(f"route to {INNER}", connection, request("replace"), request("del"), looks)
