"""What one of two NATBoxes does to its machine when it begins or ceases to work (docs/adr/0012).

Closed means: the gate is shut, the shared addresses are not there, and the uplink answers no ARP (external addresses
are routes, which stay). The order in which this is done is natbox.handover's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET

from pyroute2.netlink.rtnl import RTM_GETROUTE

from agent.kernel.errors import kernel_errors
from agent.kernel.natbox_carried import Carried
from agent.kernel.natbox_door import NatboxDoor
from agent.kernel.natbox_gate import Gate
from agent.kernel.natbox_herald import Herald
from agent.kernel.natbox_path import Memory, Sysctl
from agent.kernel.natbox_shared import SharedAddresses
from agent.kernel.netlink import DUMP, Netlink
from agent.kernel.tally import Tally
from proto.marks import ROUTE_PROTOCOL
from proto.model import Connection

#: "Do not reply for all local addresses" (ip-sysctl.rst).
NO_ARP = "8"
TABLE_LOCAL = 255
LOWER_UP = 0x10000  # IFF_LOWER_UP: the cable is in


class HandOverDoor:
    """The machine of *door*. *own* is the address that the daemon listens on. Every call blocks; CaasError."""

    def __init__(self, door: NatboxDoor, *, memory: Memory, own: IPv4Address | None, netns: str | None = None) -> None:
        self._door = door
        self._tally = Tally()
        self._route = Netlink(netns=netns, tally=self._tally)
        self._shared = SharedAddresses(self._route, own=own)
        self._carried = Carried(netns=netns, tally=self._tally)
        self._herald = Herald(trunk=door.path.trunk, uplink=door.path.uplink, netns=netns)
        settings = f"ipv4/conf/{door.path.uplink}"
        self._no_arp = Sysctl(f"{settings}/arp_ignore", NO_ARP, memory, netns, self._tally)
        self._promote = Sysctl(f"{settings}/promote_secondaries", "1", memory, netns, self._tally)

    def close(self) -> None:
        """Let go of sockets. What was done stays."""
        self._route.close()
        self._carried.close()
        self._herald.close()

    def unfit(self) -> Sequence[str]:
        """Why no packet could pass through this machine now."""
        found = []
        for name, link in self._door.find_links().items():
            if link is None:
                found.append(f"link {name} does not exist")
            elif not link.up:
                found.append(f"link {name} is down")
            elif not link.flags & LOWER_UP:
                found.append(f"link {name} has no carrier")
        return found

    def gate(self) -> Gate | None:
        """As the kernel has it; None where the programs are not there."""
        return self._door.gate()

    def shut(self, epoch: int) -> None:
        """Let nothing pass from now on, and answer no ARP on the uplink."""
        self._door.set_gate(Gate(epoch=epoch, is_open=False))
        if not self._no_arp.is_there():
            self._no_arp.make()

    def open(self, epoch: int) -> None:
        """Let pass what the tables say, and answer ARP as ever."""
        self._door.set_gate(Gate(epoch=epoch, is_open=True))
        self._no_arp.remove()

    def check_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        """CONFLICT where *addresses* cannot be taken here."""
        self._shared.check(addresses, self._door.link(self._door.path.uplink))

    def take_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        """Have them on the uplink."""
        self._shared.take(addresses, self._door.link(self._door.path.uplink))

    def give_up_shared(self) -> Sequence[IPv4Interface]:
        """Remove those that are ours from the uplink; which ones there were. A link that is gone has none."""
        uplink = self._door.find_links()[self._door.path.uplink]
        if uplink is None:
            return ()
        # Else the kernel removes the others of a subnet with the first of them.
        if not self._promote.is_there():
            self._promote.make()
        try:
            return self._shared.give_up(uplink)
        finally:
            self._promote.remove()  # also what a daemon that was killed here has made

    def connections(self) -> list[Connection]:
        """Every connection that can be handed over."""
        return self._carried.list_all()

    def enter(self, connections: Sequence[Connection]) -> Counter[str]:
        """Make them anew; how many the kernel refused, by its words."""
        return self._carried.enter(connections)

    def end(self, connections: Sequence[Connection]) -> None:
        """End them here; already over is success."""
        self._carried.end(connections)

    def claim(self, epoch: int) -> None:
        """Tell other NATBoxes on the trunk that this one works."""
        trunk = self._door.find_links()[self._door.path.trunk]
        if trunk is not None:
            self._herald.claim(epoch, trunk.mac)

    def announce_gateways(self) -> None:
        """Tell every VLAN where its gateway is."""
        self._herald.announce_gateways(self._door.gateway_addresses(), self._door.link(self._door.path.trunk).mac)

    def announce_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        """Tell the uplink's segment where *addresses* and the external ones of clusters are."""
        uplink = self._door.find_links()[self._door.path.uplink]
        if uplink is not None:
            self._herald.announce_shared([*(one.ip for one in addresses), *self._externals()], uplink.mac)

    def ask(self, shared: Sequence[IPv4Interface], *, seconds: float) -> tuple[str, str]:
        """Which other NATBox works: what answered on the trunk and on the uplink; "" for nobody."""
        path = self._door.path
        return self._herald.ask(
            [one.ip for one in shared],
            trunk_mac=self._door.link(path.trunk).mac,
            uplink_mac=self._door.link(path.uplink).mac,
            seconds=seconds,
        )

    def _externals(self) -> list[IPv4Address]:
        """Addresses of clusters' own that the kernel has as routes of type local."""
        with kernel_errors("list external addresses"):
            return self._route.dump(
                lambda route: route.route(
                    (RTM_GETROUTE, DUMP), family=AF_INET, table=TABLE_LOCAL, proto=ROUTE_PROTOCOL
                ),
                lambda message: IPv4Address(message.get_attr("RTA_DST")),
            )
