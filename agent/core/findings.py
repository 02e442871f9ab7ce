"""What a pending plan means for packets: each action that is pending is something that may not pass. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

from proto.model import (
    Action,
    Address,
    Bridge,
    Cause,
    Container,
    Finding,
    HostState,
    Ipip,
    Masquerade,
    Plan,
    Route,
    Rule,
    Verb,
    Vlan,
    Vxlan,
)

AGAIN = "`caas up FILE` makes it so again"


def containers_on(desired: HostState, bridge: str) -> tuple[str, ...]:
    """The host names of the containers that are to be ports of *bridge*."""
    return tuple(container.hostname for container in desired.containers if container.nic.bridge == bridge)


def containers_in(desired: HostState, network: IPv4Network | None) -> tuple[str, ...]:
    """The host names of the containers with an address in *network*; all of them where there is none."""
    return tuple(
        container.hostname for container in desired.containers if network is None or container.nic.address.ip in network
    )


def networks_by(desired: HostState, link: str) -> tuple[IPv4Network, ...]:
    """Where the routes by *link* lead."""
    return tuple(dict.fromkeys(route.dst for route in desired.routes if route.dev == link))


def find_pending(plan: Plan, desired: HostState) -> Iterator[Finding]:
    """What of *plan*, that would make the host as *desired*, can be a cause. Deletions are none."""
    for action in plan:
        if action.verb is not Verb.DELETE:
            yield from _read(action, desired)


def _read(action: Action, desired: HostState) -> Iterable[Finding]:
    match action.after:
        case Route() as route:
            yield _find_route(action, route)
        case Rule() as rule:
            text = f"the rule `{rule.name}` is missing"
            near, far = containers_in(desired, rule.src), (rule.dst,) if rule.dst else ()
            yield Finding(cause=Cause.NO_ROUTE, object=rule.name, text=text, hint=AGAIN, near=near, far=far)
        case Address() as address:
            text = f"{address.link} has not its address {address.address}"
            near = containers_on(desired, address.link)
            yield Finding(cause=Cause.NO_ROUTE, object=address.link, text=text, hint=AGAIN, near=near)
        case Bridge() as bridge:
            near = containers_on(desired, bridge.name)
            yield _find_link(action, bridge, near=near, crossing=False)
        case Vlan() as vlan:
            yield _find_link(action, vlan, near=containers_on(desired, vlan.master))
        case Ipip() | Vxlan() as tunnel:
            yield _find_link(action, tunnel, far=networks_by(desired, tunnel.name))
        case Masquerade() as masquerade:
            text = f"the rule for sources in {masquerade.source} is not as it should be: {action.why}"
            near = containers_in(desired, masquerade.source)
            yield Finding(cause=Cause.WRONG_SOURCE, object=masquerade.name, text=text, hint=AGAIN, near=near)
        case Container() as container if action.verb in (Verb.CREATE, Verb.START):
            text = f"{container.hostname} does not run"
            near = (container.hostname,)
            yield Finding(
                cause=Cause.NOT_RUNNING, object=container.hostname, text=text, hint=AGAIN, near=near, crossing=False
            )


def _find_route(action: Action, route: Route) -> Finding:
    lacking = f"there is no route to {route.dst} {f'by {route.dev}' if route.dev else f'via {route.via}'}"
    text = lacking if action.verb is Verb.CREATE else f"{lacking}: {action.why}"
    hint = f"ip route get {route.dst.network_address}; {AGAIN}"
    return Finding(cause=Cause.NO_ROUTE, object=str(route.dst), text=text, hint=hint, far=(route.dst,))


def _find_link(
    action: Action,
    link: Bridge | Vlan | Ipip | Vxlan,
    *,
    near: tuple[str, ...] = (),
    far: tuple[IPv4Network, ...] = (),
    crossing: bool = True,
) -> Finding:
    """Its kind of fault is told from what differs."""
    before = action.before
    cause, text = Cause.LINK_DOWN, f"{link.kind} {link.name}: {action.why}"
    if isinstance(link, Vlan) and _is_elsewhere(action, link):
        cause = Cause.WRONG_VLAN
    if type(before) is type(link) and action.verb is Verb.CHANGE:
        if action.why.startswith("mtu ") and "," not in action.why:
            cause = Cause.MTU
        elif isinstance(link, Ipip | Vxlan):
            cause, text = Cause.TUNNEL, f"tunnel {link.name} is not whole"
    return Finding(
        cause=cause,
        object=link.name,
        text=text,
        hint=f"ip -details link show {link.name}; {AGAIN}",
        near=near,
        far=far,
        crossing=crossing,
    )


def _is_elsewhere(action: Action, vlan: Vlan) -> bool:
    """Whether it is there with another VID, on another parent or bridge. The first two are replaced, not changed.

    A vlan that is not whole has a parent in brackets: no link is called so.
    """
    if isinstance(action.before, Vlan):
        return action.before.master != vlan.master
    return action.why.startswith(("it has VID", "it is on")) and not action.why.startswith("it is on (")
