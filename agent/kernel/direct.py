"""Routes without a tunnel: the next hop is the far host, on a link of the host's own."""

from __future__ import annotations

from agent.kernel import layer3, links
from agent.kernel.netlink import Netlink
from agent.kernel.sysctl import make_gateway
from proto.errors import CaasError, Code
from proto.model import Route


def open_link(connection: Netlink, route: Route) -> None:
    """Let the link that the next hop of *route* is on forward what comes by it. NOT_FOUND where there is no such link.

    It goes on forwarding when the route is gone: nobody can say who else needs it by then.
    """
    assert route.via
    index, hop = layer3.find_way(connection, route.via)
    link = links.list_links(connection).by_index.get(index)
    if link is None or hop is not None or link.mark:
        what = f"create route {route.name}: {route.via} is on no link of this host's own"
        raise CaasError(Code.NOT_FOUND, what, hint=f"ip route get {route.via}")
    make_gateway(link.name, netns=connection.netns, tally=connection.tally)
