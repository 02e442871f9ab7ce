"""The strip program at a trunk's ingress, and the trunk's promiscuity: there while a vlan of ours needs them.

A trunk is not ours: the filter is known by its place and name, and promiscuity is taken back only where the filter's
name says that we turned it on.
"""

from __future__ import annotations

from agent.kernel import filters, links
from agent.kernel.bpf import BpfProgram
from agent.kernel.filters import Attached, Direction
from agent.kernel.links import IFF_PROMISC, SeenLink
from agent.kernel.netlink import Netlink

PRIORITY, HANDLE = 0xCA, 1
NAME = "caas:host:vlan"
NAME_PROMISC = NAME + "+promisc"


def find_filter(connection: Netlink, index: int) -> Attached | None:
    """Our filter at the ingress of the link (a trunk or a far end), or None."""
    for each in filters.list_attached(connection, index, (Direction.INGRESS,)):
        if (each.priority, each.handle) == (PRIORITY, HANDLE) and each.name.startswith(NAME):
            return each
    return None


def attach_far_end(connection: Netlink, index: int, program: BpfProgram) -> None:
    """Put the append program on a far end. Raises KernelError."""
    filters.attach(connection, index, Direction.INGRESS, program, priority=PRIORITY, handle=HANDLE, name=NAME)


def attach_trunk(connection: Netlink, trunk: SeenLink, program: BpfProgram) -> None:
    """Put the strip program on *trunk* and let it take in frames for any MAC, as a bridge under an 8021q would."""
    found = find_filter(connection, trunk.index)
    turn_on = not trunk.flags & IFF_PROMISC
    # A filter that replaces ours keeps what ours says; said before it is done, so that a crash forgets nothing.
    name = NAME_PROMISC if turn_on or (found and found.name == NAME_PROMISC) else NAME
    filters.attach(connection, trunk.index, Direction.INGRESS, program, priority=PRIORITY, handle=HANDLE, name=name)
    if turn_on:
        links.perform(connection, [links.set_link(trunk.index, flags=IFF_PROMISC)])


def release_trunk(connection: Netlink, trunk: SeenLink) -> None:
    """Take both away again, and the clsact qdisc where nobody else uses it. Already gone is success."""
    found = find_filter(connection, trunk.index)
    if found is None:
        return
    if found.name == NAME_PROMISC:
        links.perform(connection, [links.set_link(trunk.index, flags_off=IFF_PROMISC)])
    filters.detach_last(connection, trunk.index, Direction.INGRESS, priority=PRIORITY, handle=HANDLE)
