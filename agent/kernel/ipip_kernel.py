"""The kernel's own realisation of an `ipip` device. What it takes is checked by nft (agent.kernel.tunnel_rules).

With its module the kernel makes a `tunl0` in each namespace, unless net.core.fb_tunnels_only_for_init_net says
otherwise. It is down and not ours: nothing comes out of it, and it is left alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path

from agent.kernel import links
from agent.kernel.errors import take_back
from agent.kernel.inside import run_inside
from agent.kernel.links import IFF_UP, Ends, Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.sysctl import make_way
from agent.kernel.tunnel_sources import CHECKSUM, MALFORMED
from proto.errors import invalid
from proto.model import KIND_IPIP, Ipip

#: The local address of a tunnel that is not whole, so that a plan mends it. No other has it.
BROKEN = IPv4Address(0)
_NETSTAT = Path("/proc/thread-self/net/netstat")


class KernelTunnels:
    """Makes, lists, changes and deletes ipip devices through one connection. Raises KernelError."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection

    @staticmethod
    def is_one(link: SeenLink) -> bool:
        return link.kind == KIND_IPIP and link.mark is not None

    def observe(self, seen: Links) -> list[Ipip]:
        """Every marked ipip device. One that is down has the local address 0.0.0.0, so that a plan mends it."""
        return [make_ipip(link, link.ends, sound=link.up) for link in seen if self.is_one(link) and link.ends]

    def create(self, wanted: Ipip) -> None:
        index = links.make_ifindex()
        with ExitStack() as undo:
            undo.callback(take_back, links.delete_link, self._connection, index)
            links.perform(
                self._connection,
                [
                    links.new_ipip(index, wanted.name, Ends(wanted.local, wanted.remote), mtu=wanted.mtu),
                    links.set_link(index, mark=wanted.mark),
                ],
            )
            make_way(wanted.name, netns=self._connection.netns, tally=self._connection.tally)
            links.perform(self._connection, [links.set_link(index, flags=IFF_UP)])
            undo.pop_all()

    def change(self, link: SeenLink, after: Ipip) -> None:
        """All of it in place, with its routes."""
        ends = Ends(after.local, after.remote)
        assert link.ends
        if (link.ends.remote is None) != (after.remote is None):
            raise invalid(f"tunnel {after.name}: one that leads to any far end has a name of its own")
        make_way(link.name, netns=self._connection.netns, tally=self._connection.tally)
        moved = [links.change_ipip(link.index, ends)] * (link.ends != ends)
        links.perform(
            self._connection,
            [*moved, links.set_link(link.index, mtu=after.mtu, mark=after.mark, flags=IFF_UP)],
        )

    def delete(self, link: SeenLink) -> None:
        links.delete_link(self._connection, link.index)


def make_ipip(link: SeenLink, ends: Ends, *, sound: bool) -> Ipip:
    """The tunnel that *link* is; its local address is 0.0.0.0 unless it is *sound*."""
    assert link.mark
    return Ipip(
        name=link.name,
        local=ends.local if sound else BROKEN,
        remote=ends.remote if ends.remote != BROKEN else None,
        mtu=link.mtu,
        mark=link.mark,
    )


def read_stack_drops(netns: str | None) -> dict[str, int]:
    """What the host's own stack dropped before any rule saw it, on whatever link (snmp_counter.rst)."""

    def read() -> dict[str, int]:
        lines = [line.split() for line in _NETSTAT.read_text().splitlines() if line.startswith("IpExt:")]
        found = dict(zip(*lines, strict=True))
        return {CHECKSUM: int(found.get("InCsumErrors", 0)), MALFORMED: int(found.get("InTruncatedPkts", 0))}

    return run_inside(netns, read)
