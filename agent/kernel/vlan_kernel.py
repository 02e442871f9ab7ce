"""The kernel's own realisation of a `vlan`: an 802.1Q subinterface."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from agent.kernel import links
from agent.kernel.errors import take_back
from agent.kernel.links import ETH_P_8021Q, IFF_UP, Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.sysctl import make_quiet
from proto.model import Vlan

#: What observe() calls the parent of a vlan whose datapath is not whole, so that a plan mends it.
BROKEN = "(broken)"


class KernelVlans:
    """Makes, lists, changes and deletes 8021q subinterfaces through one connection. Raises KernelError."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection

    def observe(self, seen: Links) -> list[Vlan]:
        """Every marked 802.1Q subinterface."""
        found = []
        for link in seen:
            parent = seen.by_index.get(link.link)
            if self.is_one(link) and link.mark and parent:
                found.append(
                    Vlan(
                        name=link.name,
                        # The kernel takes it down with its parent, and up again; on its own it should never be.
                        parent=parent.name if link.up or not parent.up else BROKEN,
                        vid=link.vid,
                        mtu=link.mtu,
                        master=master_name(seen, link),
                        mark=link.mark,
                    )
                )
        return found

    @staticmethod
    def is_one(link: SeenLink) -> bool:
        return link.kind == "vlan" and link.vlan_protocol == ETH_P_8021Q

    def create(self, wanted: Vlan, parent: SeenLink, master: int) -> None:
        index = links.make_ifindex()
        with ExitStack() as undo:
            undo.callback(take_back, links.delete_link, self._connection, index)
            links.perform(
                self._connection,
                [
                    links.new_vlan(index, wanted.name, parent=parent.index, vid=wanted.vid, mtu=wanted.mtu),
                    links.set_link(index, mark=wanted.mark),
                ],
            )
            make_quiet((wanted.name,), netns=self._connection.netns, tally=self._connection.tally)
            links.perform(
                self._connection,
                [links.set_link(index, master=master)] * bool(master) + [links.set_link(index, flags=IFF_UP)],
            )
            undo.pop_all()

    def change(self, seen: Links, link: SeenLink, after: Vlan, master: int) -> None:
        """MTU, bridge and mark in place. A subinterface cannot move to another parent or VID: it is made anew."""
        parent = seen.by_name[after.parent]
        if (link.link, link.vid) == (parent.index, after.vid):
            make_quiet((link.name,), netns=self._connection.netns, tally=self._connection.tally)
            links.perform(
                self._connection,
                [links.set_link(link.index, mtu=after.mtu, master=master, mark=after.mark, flags=IFF_UP)],
            )
            return
        assert link.mark
        old_parent = seen.by_index[link.link]
        before = Vlan(
            name=link.name,
            parent=old_parent.name,
            vid=link.vid,
            mtu=link.mtu,
            master=master_name(seen, link),
            mark=link.mark,
        )
        links.delete_link(self._connection, link.index)
        with ExitStack() as undo:
            undo.callback(take_back, self.create, before, old_parent, link.master)
            self.create(after, parent, master)
            undo.pop_all()

    def delete(self, link: SeenLink) -> None:
        links.delete_link(self._connection, link.index)


def master_name(seen: Links, link: SeenLink) -> str:
    """The name of the bridge that *link* is a port of, or ""."""
    master = seen.by_index.get(link.master)
    return master.name if master else ""


def others_with_vid(seen: Links, parent: SeenLink, vid: int) -> Mapping[str, SeenLink]:
    """The 802.1Q subinterfaces, anybody's, that have *vid* on *parent*."""
    return {
        link.name: link for link in seen if KernelVlans.is_one(link) and link.link == parent.index and link.vid == vid
    }
