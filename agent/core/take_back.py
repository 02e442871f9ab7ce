"""What a host is to be when a change of its network is taken back. Pure."""

from __future__ import annotations

from dataclasses import replace

from proto.model import Action, Bridge, ClusterHost, Container, HostState, Plan


def changes_network(plan: Plan) -> bool:
    """Whether *plan* writes to anything but containers and their ports."""
    return any(_is_network(action) for action in plan)


def make_taken_back(before: HostState, in_force: ClusterHost) -> ClusterHost:
    """*in_force* with the network of *before*, marked as taken back; the same generation.

    Its containers stay as they are, and so does each bridge that one of them is on: a port whose bridge goes is down
    for good, and the container would have to be restarted to get another. Nothing that leads to or from that bridge
    stays, unless it was there before: it has no address, no VLAN, no route, no translation.
    """
    names = {link.name for link in before.links}
    needed = {container.nic.bridge for container in in_force.state.containers}
    kept = tuple(
        link
        for link in in_force.state.links
        if isinstance(link, Bridge) and link.name in needed and link.name not in names
    )
    state = replace(before, links=(*before.links, *kept), containers=in_force.state.containers)
    return replace(in_force, state=state, taken_back=True)


def _is_network(action: Action) -> bool:
    return action.kind != Container.kind
