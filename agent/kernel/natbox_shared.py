"""The addresses on the uplink that go with the NATBox that works: taken, given up, and told from everybody else's."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET

from agent.kernel.errors import kernel_errors
from agent.kernel.layer3 import read_interface
from agent.kernel.links import SeenLink
from agent.kernel.netlink import KernelError, Netlink
from proto.errors import CaasError, Code
from proto.marks import ROUTE_PROTOCOL


class SharedAddresses:
    """Those on one link. *own* is the address that the daemon listens on: never one of them."""

    def __init__(self, connection: Netlink, *, own: IPv4Address | None) -> None:
        self._connection = connection
        self._own = own

    def check(self, addresses: Iterable[IPv4Interface], uplink: SeenLink) -> None:
        """CONFLICT where one of *addresses* is the daemon's own or stands on another link."""
        seen = self._list()
        for address in addresses:
            if address.ip == self._own:
                raise CaasError(
                    Code.CONFLICT,
                    f"shared address {address}: NATBox's daemon listens on it, and it would go with the packets",
                    hint="give --listen an address of a third link",
                )
            elsewhere = [index for index, one, _ in seen if one.ip == address.ip and index != uplink.index]
            if elsewhere:
                raise CaasError(
                    Code.CONFLICT,
                    f"shared address {address} is on another link (ifindex {elsewhere[0]}) than {uplink.name}",
                    hint=f"ip address show to {address.ip}",
                )

    def take(self, addresses: Iterable[IPv4Interface], uplink: SeenLink) -> None:
        """Have *addresses* on the uplink, with our number on them. What is right is not written."""
        for address in addresses:
            if (uplink.index, address, ROUTE_PROTOCOL) not in self._list():
                self._change("replace", address, uplink)

    def give_up(self, uplink: SeenLink) -> list[IPv4Interface]:
        """Remove every address of ours from the uplink; which ones there were."""
        ours = [one for index, one, protocol in self._list() if index == uplink.index and protocol == ROUTE_PROTOCOL]
        for address in ours:
            self._change("del", address, uplink)
        return ours

    def _list(self) -> list[tuple[int, IPv4Interface, int]]:
        """Ifindex, address, number of who set it."""
        with kernel_errors("list addresses"):
            return self._connection.dump(
                lambda route: route.addr("dump", family=AF_INET),
                lambda message: (
                    int(message["index"]),
                    read_interface(message),
                    int(message.get_attr("IFA_PROTO") or 0),
                ),
            )

    def _change(self, command: str, address: IPv4Interface, uplink: SeenLink) -> None:
        with kernel_errors(f"{command} address {address} on {uplink.name}"):
            try:
                self._connection.change(
                    lambda route: route.addr(
                        command,
                        family=AF_INET,
                        index=uplink.index,
                        address=str(address.ip),
                        prefixlen=address.network.prefixlen,
                        proto=ROUTE_PROTOCOL,
                    )
                )
            except KernelError as exc:
                if command != "del" or exc.errno != errno.EADDRNOTAVAIL:
                    raise
