"""The vxlan of a host: one device for all clusters and far ends, and what follows from the routes through it.

It learns nothing and asks nobody: each far end's device has the MAC that follows from its underlay address, and a
neighbour entry and a forwarding entry say so, for exactly those that a route of ours leads to. From those alone, with
the inner sources that such a route leads to, packets are taken (agent.kernel.vxlan_rules).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from socket import AF_BRIDGE, AF_INET

from pyroute2.netlink.rtnl import RTM_GETNEIGH

from agent.kernel import layer3, links, placement
from agent.kernel.errors import take_back
from agent.kernel.ipip_kernel import BROKEN
from agent.kernel.layer3 import is_vxlan
from agent.kernel.links import IFF_UP, Links, SeenLink
from agent.kernel.netlink import DUMP, Message, Netlink, Request
from agent.kernel.nft import Nft
from agent.kernel.sysctl import make_way
from agent.kernel.tunnel_rules import Chains, TunnelRules
from agent.kernel.tunnel_sources import find_taken
from agent.kernel.vxlan_rules import TABLE, make_chains
from proto.errors import CaasError, Code
from proto.marks import ROUTE_PROTOCOL
from proto.model import Vxlan

NUD_PERMANENT = 0x80
#: Locally administered (IEEE 802); the underlay address follows.
_MAC_HEAD = bytes((0x02, 0xCA))
#: A far end's MAC -> its underlay address, of the entries of one kind.
Entries = dict[str, IPv4Address]


def make_mac(address: IPv4Address) -> bytes:
    """The MAC of the vxlan of the host with that underlay address."""
    return _MAC_HEAD + address.packed


class Vxlans:
    """All through one connection. Not safe for several threads. Raises KernelError and CaasError."""

    def __init__(self, connection: Netlink, nft: Nft) -> None:
        self._connection = connection
        self._rules = TunnelRules(nft, TABLE)

    def observe(self, seen: Links) -> list[Vxlan]:
        """Ours. One that is not whole, in itself or in what belongs to it, has the local address 0.0.0.0."""
        found = self._list(seen)
        return [each if self._is_whole(seen, each) else replace(each, local=BROKEN) for each in found]

    def create(self, wanted: Vxlan) -> None:
        seen = links.list_links(self._connection)
        placement.check_name_free(seen, wanted)
        self._check_underlay(seen, wanted)
        index = links.make_ifindex()
        with ExitStack() as undo:
            undo.callback(take_back, self.delete, wanted.name)
            links.perform(
                self._connection,
                [
                    links.new_vxlan(index, wanted.name, wanted.local, mtu=wanted.mtu, mac=make_mac(wanted.local)),
                    links.set_link(index, mark=wanted.mark),
                ],
            )
            make_way(wanted.name, netns=self._connection.netns, tally=self._connection.tally)
            self.refresh()
            # Only now: the rules are there before the first packet is.
            links.perform(self._connection, [links.set_link(index, flags=IFF_UP)])
            undo.pop_all()

    def change(self, link: SeenLink, seen: Links, after: Vxlan) -> None:
        """All of it in place, with its routes, and what was lost of it."""
        self._check_underlay(seen, after)
        make_way(link.name, netns=self._connection.netns, tally=self._connection.tally)
        moved = [links.change_vxlan(link.index, after.local)] * (not link.ends or link.ends.local != after.local)
        mac = make_mac(after.local)
        links.perform(
            self._connection,
            [
                *moved,
                links.set_link(link.index, mtu=after.mtu, mark=after.mark, mac=mac, flags=IFF_UP),
            ],
        )
        self.refresh()

    def delete(self, name: str) -> None:
        """Already gone is success, and what is left of it goes too."""
        link = links.list_links(self._connection).by_name.get(name)
        if link is not None and is_vxlan(link):
            links.delete_link(self._connection, link.index)
        self._rules.make(self._chains(seen := links.list_links(self._connection), self._list(seen)))

    def refresh(self) -> None:
        """Send to whom the host's routes lead, and take from them. Nothing is written where nothing differs."""
        seen = links.list_links(self._connection)
        found = self._list(seen)
        for each in found:
            link = seen.by_name[each.name]
            wanted = self._far_ends(seen, each)
            self._refresh_entries(link, wanted)
        if found:
            self._rules.make(self._chains(seen, found))

    def local_of(self, name: str) -> IPv4Address | None:
        """Our address of the vxlan *name*; None where that is none of ours."""
        found = [each for each in self._list(links.list_links(self._connection)) if each.name == name]
        return found[0].local if found and found[0].local != BROKEN else None

    def drops(self) -> dict[str, int]:
        """Packets that were not taken, by reason (tunnel_sources.REASONS)."""
        return self._rules.drops()

    def _list(self, seen: Links) -> list[Vxlan]:
        """Those that are ours, with the local address that the device has."""
        return [
            Vxlan(name=link.name, local=link.ends.local if link.ends else BROKEN, mtu=link.mtu, mark=link.mark)
            for link in seen
            if is_vxlan(link) and link.mark
        ]

    def _is_whole(self, seen: Links, found: Vxlan) -> bool:
        link = seen.by_name[found.name]
        wanted = self._far_ends(seen, found)
        return (
            link.up
            and link.mac == make_mac(found.local)
            and self._forwarding(link) == wanted
            and self._neighbours(link) == wanted
            and self._rules.is_as(self._chains(seen, [found]))
        )

    def _far_ends(self, seen: Links, vxlan: Vxlan) -> Entries:
        routes = layer3.list_routes(self._connection, seen)
        ends = {route.encap for route in routes if route.dev == vxlan.name and route.encap}
        return {make_mac(end).hex(":"): end for end in ends}

    def _chains(self, seen: Links, found: list[Vxlan]) -> Chains:
        if not found:
            return {}
        names = {each.name for each in found}
        own = [
            each.thing
            for each in layer3.list_addresses(self._connection, seen)
            if seen.by_name[each.thing.link].mark and each.thing.link not in names
        ]
        taken = find_taken(
            [each for each in found if each.local != BROKEN], layer3.list_routes(self._connection, seen), own
        )
        return make_chains(taken, name=found[0].name)

    def _refresh_entries(self, link: SeenLink, wanted: Entries) -> None:
        """Neighbours and forwarding entries are exactly *wanted*, which says who has which MAC."""
        held, known = self._forwarding(link), self._neighbours(link)
        requests = [_forget(link, mac) for mac, end in held.items() if wanted.get(mac) != end]
        requests += [_forward(link, mac, end) for mac, end in wanted.items() if held.get(mac) != end]
        requests += [_know(link, mac, end) for mac, end in wanted.items() if known.get(mac) != end]
        requests += [_unknow(link, end) for end in {*known.values()} - {*wanted.values()}]
        for request in requests:
            self._connection.change(request)

    def _forwarding(self, link: SeenLink) -> Entries:
        found = self._connection.dump(
            lambda route: route.neigh((RTM_GETNEIGH, DUMP), family=AF_BRIDGE, ifindex=link.index, state=0),
            lambda message: _entry(message, link),
        )
        return dict(each for each in found if each)

    def _neighbours(self, link: SeenLink) -> Entries:
        # Asked for one link in its header, the kernel refuses (neigh_valid_dump_req).
        found = self._connection.dump(
            lambda route: route.neigh((RTM_GETNEIGH, DUMP), family=AF_INET, ifindex=0, state=0),
            lambda message: _entry(message, link) if message["state"] & NUD_PERMANENT else None,
        )
        return dict(each for each in found if each)

    def _check_underlay(self, seen: Links, wanted: Vxlan) -> None:
        """NOT_FOUND where the host has not that address; INVALID where the link that has it is too narrow; CONFLICT
        where there is a vxlan of ours already."""
        places = {each.thing.address.ip: each.thing.link for each in layer3.list_addresses(self._connection, seen)}
        what = f"vxlan {wanted.name}"
        if wanted.local not in places:
            raise CaasError(Code.NOT_FOUND, f"{what}: {wanted.local} is no address of this host", hint="ip address")
        placement.check_overhead(wanted, seen.by_name[places[wanted.local]])
        if others := [each.name for each in self._list(seen) if each.name != wanted.name]:
            raise CaasError(Code.CONFLICT, f"{what}: a host has one, and this one has {', '.join(others)}")


def _forward(link: SeenLink, mac: str, end: IPv4Address) -> Request:
    return lambda route: route.fdb("add", ifindex=link.index, lladdr=mac, dst=str(end))


def _forget(link: SeenLink, mac: str) -> Request:
    return lambda route: route.fdb("del", ifindex=link.index, lladdr=mac)


def _know(link: SeenLink, mac: str, end: IPv4Address) -> Request:
    return lambda route: route.neigh(
        "replace",
        family=AF_INET,
        ifindex=link.index,
        dst=str(end),
        lladdr=mac,
        state=NUD_PERMANENT,
        protocol=ROUTE_PROTOCOL,
    )


def _unknow(link: SeenLink, end: IPv4Address) -> Request:
    return lambda route: route.neigh("del", family=AF_INET, ifindex=link.index, dst=str(end))


def _entry(message: Message, link: SeenLink) -> tuple[str, IPv4Address] | None:
    mac, end = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
    return (mac, IPv4Address(end)) if message["ifindex"] == link.index and mac and end else None
