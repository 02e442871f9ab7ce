"""What in this host's kernel can keep packets from passing beside what is ours: links, MTUs, filters, sysctls.

Looks only. What is ours and is not as it should be, a plan says (agent.core.findings).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from agent.core.findings import containers_on, networks_by
from agent.kernel import layer3, links
from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from agent.kernel.vlan_kernel import master_name
from proto.model import IPIP_OVERHEAD, KIND_IPIP, Bridge, Cause, Container, Finding, HostState, Ipip, Vlan
from proto.model.network import TABLE_MAIN

IFF_LOWER_UP = 1 << 16
_CONF = Path("/proc/sys/net/ipv4/conf")
_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_OLD_TABLES = Path("/proc/thread-self/net/ip_tables_names")
#: Hooks that what is routed passes, and those that a tunnel's own packets pass at an end.
_ROUTED, _OUTER = frozenset({"forward"}), frozenset({"prerouting", "input", "output", "postrouting"})
#: Of whom, the link that it comes by, the link that answers take; containers and networks that this concerns.
Way = tuple[str, str, str, tuple[str, ...], tuple[IPv4Network, ...]]
_OLD = ("iptables-legacy", "-w", "-S", "FORWARD")


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
        return (*found, *self._look_at_filters(seen, desired), *run_inside(self._netns, lambda: _read_conf(desired)))

    def _look_at_filters(self, seen: Links, desired: HostState) -> Iterator[Finding]:
        bridged = run_inside(self._netns, lambda: _BRIDGED.exists() and _BRIDGED.read_text().strip() == "1")
        listed = [each["chain"] for each in self._nft.list_chains() if "chain" in each]
        for chain in listed:
            if "hook" not in chain or str(chain["table"]).startswith("caas"):
                continue
            drops = chain.get("policy") == "drop" or self._has_drop(chain)
            if drops:
                yield from _find_filter(chain, seen, desired, bridged=bridged)
        if old := run_inside(self._netns, _read_old_filter):
            yield from _find_forward(old, desired, bridged=bridged, sure="-P FORWARD DROP" in old)

    def _has_drop(self, chain: dict[str, Any]) -> bool:
        """Whether any rule of its table drops: chains jump to chains."""
        rules = [each["rule"] for each in self._nft.list_table(chain["family"], chain["table"]) if "rule" in each]
        return any({"drop", "reject"} & set(statement) for rule in rules for statement in rule.get("expr", ()))


def _look_at_link(wanted: Bridge | Vlan | Ipip | object, seen: Links, desired: HostState) -> Iterator[Finding]:
    """Down, or below it something that is down or too narrow. What is missing is in the plan."""
    link = seen.by_name.get(getattr(wanted, "name", ""))
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
        case Ipip():
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
    tunnels = {link.name for link in desired.links if isinstance(link, Ipip)}
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


def _find_filter(chain: dict[str, Any], seen: Links, desired: HostState, *, bridged: bool) -> Iterator[Finding]:
    name = f"nft chain {chain['family']} {chain['table']} {chain['name']}"
    is_sure = chain.get("policy") == "drop"
    what = f"{name} drops what it does not know" if is_sure else f"{name} has rules that drop"
    if chain["hook"] in _ROUTED:
        if chain["family"] == "bridge":
            yield _filtered(Cause.FORWARD, what, name, sure=is_sure, crossing=False)
        else:
            yield from _find_forward(what, desired, bridged=bridged, sure=is_sure)
    elif chain["hook"] in _OUTER and chain["family"] in ("ip", "inet"):
        tunnels = [one for one in desired.links if isinstance(one, Ipip)]
        kernels = [
            one.name for one in tunnels if (link := seen.by_name.get(one.name)) is not None and link.kind == KIND_IPIP
        ]
        far = tuple(network for one in kernels for network in networks_by(desired, one))
        if far:
            yield _filtered(Cause.PROTOCOL_4, what, name, sure=is_sure, far=far)


def _find_forward(what: str, desired: HostState, *, bridged: bool, sure: bool) -> Iterator[Finding]:
    """What is routed passes there; and what is bridged, too, where br_netfilter sends it (facts.md)."""
    routed = {address.link for address in desired.addresses}
    near = tuple(one.hostname for one in desired.containers if one.nic.bridge in routed)
    hint = (
        "accept packets from and to the bridges of containers there: `iifname lxcbr* accept`, `oifname lxcbr* accept`"
    )
    if near:
        yield Finding(cause=Cause.FORWARD, object="forward", text=what, hint=hint, near=near, sure=sure)
    if bridged:
        text = f"{what}, and bridged frames pass it (net.bridge.bridge-nf-call-iptables)"
        hint = f"sysctl -w net.bridge.bridge-nf-call-iptables=0, or {hint}"
        yield Finding(cause=Cause.FORWARD, object="forward", text=text, hint=hint, crossing=False, sure=sure)


def _filtered(
    cause: Cause, what: str, name: str, *, sure: bool, far: tuple[IPv4Network, ...] = (), crossing: bool = True
) -> Finding:
    hint = "accept `ip protocol 4` from the other hosts there" if cause is Cause.PROTOCOL_4 else "nft list ruleset"
    return Finding(cause=cause, object=name, text=what, hint=hint, far=far, crossing=crossing, sure=sure)


def _read_old_filter() -> str:
    """What iptables-legacy has at FORWARD; nft does not show it. "" where there is none, or it drops nothing."""
    if not _OLD_TABLES.exists() or "filter" not in _OLD_TABLES.read_text().split():
        return ""
    try:
        done = subprocess.run(_OLD, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "the old iptables filters, and its program is not here to ask"
    found = [line for line in done.stdout.splitlines() if "DROP" in line.split() or "REJECT" in line.split()]
    return f"iptables-legacy has {'; '.join(found)}" if found else ""


def _read_conf(desired: HostState) -> Iterable[Finding]:
    """Links that do not forward, and those whose sources have to be routed back by them. In the host's namespace."""
    routed = {address.link: containers_on(desired, address.link) for address in desired.addresses}
    ways = {one.name: networks_by(desired, one.name) for one in desired.links if isinstance(one, Ipip)}
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
