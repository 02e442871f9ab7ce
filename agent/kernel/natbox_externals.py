"""External addresses that are NATBox's besides the uplink's own: each a route of type `local`, ours by its protocol.

The kernel answers ARP for such an address, and takes what comes to it, without the address being on a link: what the
uplink has stays the operator's, and masquerading and the stack's own packets go on using that (ip-route(8), AnyIP).
"""

from __future__ import annotations

import errno
import ipaddress
from socket import AF_INET

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import RTM_GETROUTE

from agent.kernel.errors import kernel_errors
from agent.kernel.netlink import DUMP, GET, KernelError, Message, Netlink, Request
from proto.errors import CaasError, Code
from proto.marks import ROUTE_PROTOCOL

LOOPBACK_INDEX, TABLE_LOCAL, RTN_LOCAL, SCOPE_HOST, RTM_F_FIB_MATCH = 1, 255, 2, 254, 0x2000
_GONE = (errno.ENOENT, errno.ESRCH)


class Externals:
    """Those of *connection*'s namespace."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection

    def has(self, address: ipaddress.IPv4Address) -> bool:
        """Whether *address* is there, and ours."""
        found = self._find(address)
        return found is not None and _is_ours(found, address)

    def list_all(self) -> set[ipaddress.IPv4Address]:
        with kernel_errors("list external addresses"):
            return set(
                self._connection.dump(
                    lambda route: route.route(
                        (RTM_GETROUTE, DUMP), family=AF_INET, table=TABLE_LOCAL, proto=ROUTE_PROTOCOL
                    ),
                    lambda message: ipaddress.IPv4Address(message.get_attr("RTA_DST")),
                )
            )

    def add(self, address: ipaddress.IPv4Address) -> None:
        """Already there is success. NOT_OWNED where it is an address of NATBox's machine itself."""
        found = self._find(address)
        if found is not None and _is_ours(found, address):
            return
        if found is not None and found["type"] == RTN_LOCAL:
            raise CaasError(
                Code.NOT_OWNED,
                f"external address {address}: NATBox's machine has it itself",
                hint="leave `external` out for the uplink's own address, or take it from the link: `ip address`",
            )
        with kernel_errors(f"create external address {address}"):
            self._connection.change(_request("replace", address))

    def remove(self, address: ipaddress.IPv4Address) -> None:
        """Already gone is success."""
        with kernel_errors(f"delete external address {address}"):
            try:
                self._connection.change(_request("del", address))
            except KernelError as exc:
                if exc.errno not in _GONE:
                    raise

    def _find(self, address: ipaddress.IPv4Address) -> Message | None:
        """The route that *address* meets, whatever there is by now."""

        def look(route: IPRoute) -> list[Message]:
            found: list[Message] = route.route(
                (RTM_GETROUTE, GET), family=AF_INET, dst=f"{address}/32", flags=RTM_F_FIB_MATCH
            )
            return found

        with kernel_errors(f"look for external address {address}"):
            try:
                (message,) = self._connection.ask(look)
            except KernelError as exc:
                if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                    return None
                raise
        return message


def _is_ours(message: Message, address: ipaddress.IPv4Address) -> bool:
    return (message["proto"], message["type"], message["dst_len"], message.get_attr("RTA_DST")) == (
        ROUTE_PROTOCOL,
        RTN_LOCAL,
        32,
        str(address),
    )


def _request(command: str, address: ipaddress.IPv4Address) -> Request:
    return lambda route: route.route(
        command,
        family=AF_INET,
        dst=f"{address}/32",
        oif=LOOPBACK_INDEX,
        table=TABLE_LOCAL,
        type=RTN_LOCAL,
        scope=SCOPE_HOST,
        proto=ROUTE_PROTOCOL,
    )
