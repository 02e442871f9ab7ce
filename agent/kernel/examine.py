"""What in this host's kernel can keep packets from passing beside what is ours: links, MTUs, filters, sysctls.

Looks only. What is ours and is not as it should be, a plan says (agent.core.findings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from agent.core.findings import containers_on, networks_by
from agent.kernel import layer3, links
from agent.kernel.errors import kernel_errors
from agent.kernel.examine_filters import find_filters
from agent.kernel.inside import run_inside
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from agent.kernel.vlan_kernel import master_name
from proto.model import IPIP_OVERHEAD, Bridge, Cause, Container, Finding, HostState, Ipip, Link, Vlan, Vxlan
from proto.model.network import TABLE_MAIN

IFF_LOWER_UP = 1 << 16
_CONF = Path("/proc/sys/net/ipv4/conf")
#: Of whom, the link that it comes by, the link that answers take; containers and networks that this concerns.
Way = tuple[str, str, str, tuple[str, ...], tuple[IPv4Network, ...]]


class Examiner:
    """Of the caller's network namespace, or of *netns*."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns
        self._nft = Nft(netns=netns)

    def look(self, desired: HostState) -> tuple[Finding, ...]:
        """Everything that can be a cause for the packets of *desired*. Raises CaasError."""
        with kernel_errors("examine the network"), Netlink(netns=self._netns) as connection:
            seen = links.list_links(connection)
            found = [each for link in desired.links for each in _look_at_link(link, seen, desired)]
            found += [each for container in desired.containers for each in _look_at_port(container, seen)]
            for link in desired.links:
                found += _look_below(connection, seen, link) if isinstance(link, Ipip) else ()
            ways = tuple(_find_ways_back(connection, seen, desired))
        found += run_inside(self._netns, lambda: [_find_detour(*way) for way in ways])
        return (*found, *find_filters(self._nft, seen, desired), *run_inside(self._netns, lambda: _read_conf(desired)))


def _look_at_link(wanted: Link, seen: Links, desired: HostState) -> Iterator[Finding]:
    """Down, or below it something that is down or too narrow. What is missing is in the plan."""
    link = seen.by_name.get(wanted.name)
    if link is None:
        return
    match wanted:
        case Bridge():
            if not link.up:
                near = containers_on(desired, link.name)
                yield _down(link, "is down", near=near, crossing=False)
        case Vlan():
            near, parent = containers_on(desired, wanted.master), seen.by_name.get(wanted.parent)
            if not link.up:
                yield _down(link, "is down", near=near)
            if parent is not None and not parent.up:
                yield _down(parent, "is down", near=near)
            elif parent is not None and not parent.flags & IFF_LOWER_UP:
                yield _down(parent, "has no carrier", near=near)
            if parent is not None and parent.mtu < wanted.mtu:
                yield _narrow(parent, wanted.mtu, near=near)
        case Ipip() | Vxlan():
            if not link.up:
                yield _down(link, "is down", far=networks_by(desired, link.name))


def _look_at_port(wanted: Container, seen: Links) -> Iterator[Finding]:
    """The host's end of a container's veth pair."""
    port, near = seen.by_name.get(wanted.nic.port), (wanted.hostname,)
    if port is None or not wanted.running:
        return
    if (bridge := master_name(seen, port)) != wanted.nic.bridge:
        yield Finding(
            cause=Cause.WRONG_VLAN,
            object=port.name,
            text=f"port {port.name} of {wanted.hostname} is on {bridge or 'no bridge'}, not on {wanted.nic.bridge}",
            hint=f"ip link set {port.name} master {wanted.nic.bridge}",
            near=near,
            crossing=False,
        )
    if not port.up:
        yield _down(port, f"of {wanted.hostname} is down", near=near, crossing=False)
    if port.mtu < wanted.nic.mtu:
        yield _narrow(port, wanted.nic.mtu, near=near, crossing=False)


def _look_below(connection: Netlink, seen: Links, tunnel: Ipip) -> Iterator[Finding]:
    """The underlay on the way to the tunnel's far end."""
    if tunnel.remote is None:
        return
    index = layer3.find_out_link(connection, tunnel.remote, src=tunnel.local)
    link = seen.by_index.get(index)
    if link is None:
        yield Finding(
            cause=Cause.NO_ROUTE,
            object=str(tunnel.remote),
            text=f"there is no route to {tunnel.remote}, the far end of tunnel {tunnel.name}",
            hint=f"ip route get {tunnel.remote}",
            far=(IPv4Network(tunnel.remote),),
        )
    elif link.mtu < tunnel.mtu + IPIP_OVERHEAD:
        yield _narrow(link, tunnel.mtu + IPIP_OVERHEAD, far=(IPv4Network(tunnel.remote),))


def _find_ways_back(connection: Netlink, seen: Links, desired: HostState) -> Iterator[Way]:
    """The containers and blocks that the host reaches by another link than what comes from them comes by."""
    gateways = {address.link: address.address.ip for address in desired.addresses}
    own = next(iter(gateways.values()), None)
    tunnels = {link.name for link in desired.links if isinstance(link, Ipip | Vxlan)}
    wanted: list[tuple[IPv4Address, IPv4Address | None, Way]] = []
    for container in desired.containers:
        name, nic = container.hostname, container.nic
        if nic.bridge in gateways:
            wanted.append((nic.address.ip, gateways[nic.bridge], (name, nic.bridge, "", (name,), ())))
    for route in desired.routes:
        if route.dev in tunnels and route.table == TABLE_MAIN:
            way = (str(route.dst), route.dev, "", (), (route.dst,))
            wanted.append((route.dst.network_address + 1, route.src or own, way))
    for address, src, (what, link, _, near, far) in wanted:
        out = seen.by_index.get(layer3.find_out_link(connection, address, src=src)) if src is not None else None
        if out is not None and link in seen.by_name and out.name not in (link, "lo"):
            yield what, link, out.name, near, far


def _find_detour(what: str, link: str, out: str, near: tuple[str, ...], far: tuple[IPv4Network, ...]) -> Finding:
    """In the host's namespace: whether what comes by *link* is dropped for that says its rp_filter."""
    cause, text = Cause.NO_ROUTE, f"the way to {what} is by {out}, not by {link}"
    if max(_conf("all", "rp_filter") or 0, _conf(link, "rp_filter") or 0) == 1:
        cause, text = Cause.REVERSE_PATH, f"{text}: what comes by {link} is dropped (rp_filter=1)"
    return Finding(cause=cause, object=link, text=text, hint="ip route; ip rule", near=near, far=far)


def _down(
    link: SeenLink, what: str, *, near: tuple[str, ...] = (), far: tuple[IPv4Network, ...] = (), crossing: bool = True
) -> Finding:
    return Finding(
        cause=Cause.LINK_DOWN,
        object=link.name,
        text=f"{link.name} {what}",
        hint=f"ip link set {link.name} up",
        near=near,
        far=far,
        crossing=crossing,
    )


def _narrow(
    link: SeenLink, wanted: int, *, near: tuple[str, ...] = (), far: tuple[IPv4Network, ...] = (), crossing: bool = True
) -> Finding:
    return Finding(
        cause=Cause.MTU,
        object=link.name,
        text=f"{link.name} has MTU {link.mtu}, and {wanted} is needed",
        hint=f"ip link set {link.name} mtu {wanted}",
        near=near,
        far=far,
        crossing=crossing,
    )


def _read_conf(desired: HostState) -> Iterable[Finding]:
    """Links that do not forward, and those whose sources have to be routed back by them. In the host's namespace."""
    routed = {address.link: containers_on(desired, address.link) for address in desired.addresses}
    ways = {one.name: networks_by(desired, one.name) for one in desired.links if isinstance(one, Ipip | Vxlan)}
    found = []
    for link in (*routed, *ways):
        if _conf(link, "forwarding") == 0:
            found.append(
                Finding(
                    cause=Cause.FORWARD,
                    object=link,
                    text=f"what comes in by {link} is not forwarded (net.ipv4.conf.{link}.forwarding is 0)",
                    hint=f"sysctl -w net.ipv4.conf.{link}.forwarding=1",
                    near=routed.get(link, ()),
                    far=ways.get(link, ()),
                )
            )
    strict = [path.name for path in sorted(_CONF.iterdir()) if path.name not in ("all", "default", "lo")]
    strict = [link for link in strict if max(_conf("all", "rp_filter") or 0, _conf(link, "rp_filter") or 0) == 1]
    if strict:
        found.append(
            Finding(
                cause=Cause.REVERSE_PATH,
                object=", ".join(strict),
                text=f"sources must be routed back by the link that they come by (rp_filter=1) on {', '.join(strict)}",
                hint="sysctl -w net.ipv4.conf.LINK.rp_filter=2",
                crossing=False,
                sure=False,
            )
        )
    return found


def _conf(link: str, key: str) -> int | None:
    try:
        return int((_CONF / link / key).read_text())
    except OSError:  # gone meanwhile
        return None
