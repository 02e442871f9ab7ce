"""What stands between containers and other links and is not ours to change: a link that forwards nothing, the host's
own packet filter. Each is a lack with the command that mends it.

The kernel forwards what comes in by a link only where net.ipv4.conf.LINK.forwarding is 1 (ip-sysctl.rst). Our own links
are made so; by the uplink come answers to what was masqueraded, what is forwarded to containers, and what other hosts'
containers send where no tunnel leads. With br_netfilter
(Docker and Kubernetes load it) bridged IPv4 passes the forward hook like routed IPv4, whatever the bridge says.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from agent.core.doors import Lack
from agent.kernel import layer3
from agent.kernel.forward_chains import Chain, Way, find_dropped
from agent.kernel.inside import run_inside
from agent.kernel.links import Links, list_links
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from agent.kernel.sysctl import is_gateway, is_strict
from proto.model import Bridge, HostState, Ipip, Vxlan

SWITCH = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
#: A bridge of ours of which no more is known.
_SOME_BRIDGE = "lxcbr"
#: Of the ways that a chain drops, so many are named.
SHOWN_MAX = 4


def find_forwarding_lacks(connection: Netlink, nft: Nft, desired: HostState | None) -> list[Lack]:
    """For *desired*; without it, what any bridge would lack. Raises KernelError and CaasError."""
    uplinks = _find_uplinks(connection, desired) if desired else []
    lacks = [_deaf_lack(link) for link in uplinks if not is_gateway(link, netns=connection.netns)]
    if desired and desired.forwards and desired.rules:
        lacks += [_strict_lack(link) for link in uplinks if is_strict(link, netns=connection.netns)]
    ways = dict.fromkeys(
        [*_bridged_ways(desired, connection.netns), *(_routed_ways(desired, uplinks) if desired else ())]
    )
    if ways:
        dropped = find_dropped(nft.list_everything(), ways)
        bridges = _find_gateways(desired) if desired else []
        lacks += [_filter_lack(chain, those, bridges) for chain, those in dropped.items()]
    return lacks


def _find_uplinks(connection: Netlink, desired: HostState) -> list[str]:
    """The links that packets for containers come in by, from elsewhere than our tunnels.

    Of masquerading: that of the default route, or of the tunnels' ends where there is none; of forwards: those with
    their addresses; of routes without a tunnel: those that their next hops are on.
    """
    seen = list_links(connection)
    defaults = [seen.by_index[index].name for index in layer3.list_default_links(connection) if index in seen.by_index]
    ends = {link.local for link in desired.links if isinstance(link, Ipip | Vxlan)}
    holders = {each.thing.address.ip: each.thing.link for each in layer3.list_addresses(connection, seen)}
    found: list[str] = []
    if desired.masquerades:
        found += defaults or _holding(holders, ends)
    found += _holding(holders, {forward.address for forward in desired.forwards})
    ways = [layer3.find_way(connection, hop)[0] for hop in _direct_hops(desired)]
    found += [seen.by_index[index].name for index in ways if index in seen.by_index]
    return [name for name in dict.fromkeys(found) if not _is_ours(seen, name)]


def _direct_hops(desired: HostState) -> list[IPv4Address]:
    """The hosts that packets go to without a tunnel."""
    return [route.via for route in desired.routes if route.via and not route.dev]


def _holding(holders: dict[IPv4Address, str], addresses: set[IPv4Address]) -> list[str]:
    return [holders[address] for address in sorted(addresses) if address in holders]


def _is_ours(seen: Links, name: str) -> bool:
    return seen.by_name[name].mark is not None


def _bridged_ways(desired: HostState | None, netns: str | None) -> Iterator[Way]:
    if run_inside(netns, _filters_bridges):
        links = [link.name for link in desired.links if isinstance(link, Bridge)] if desired else [_SOME_BRIDGE]
        yield from (Way(name, name) for name in links)


def _find_gateways(desired: HostState) -> list[str]:
    """The bridges of routed networks: those with addresses."""
    addressed = {address.link for address in desired.addresses}
    return [link.name for link in desired.links if isinstance(link, Bridge) and link.name in addressed]


def _routed_ways(desired: HostState, uplinks: list[str]) -> Iterator[Way]:
    """Between the bridges with addresses, and from each of them to every tunnel and uplink and back."""
    bridges = _find_gateways(desired)
    tunnels = [link.name for link in desired.links if isinstance(link, Ipip | Vxlan)]
    is_direct = bool(_direct_hops(desired))
    for bridge in bridges:
        for other in tunnels:
            yield Way(bridge, other)
            yield Way(other, bridge)
        for uplink in uplinks:
            if desired.masquerades or is_direct:
                yield Way(bridge, uplink)
            if desired.forwards or is_direct:
                yield Way(uplink, bridge)
        yield from (Way(bridge, other) for other in bridges if other != bridge)


def _deaf_lack(link: str) -> Lack:
    return Lack(
        what=f"packets for containers come in by {link}, and what comes in by it is not forwarded",
        mend=f"sysctl -w {_sysctl(link, 'forwarding')}=1",
    )


def _strict_lack(link: str) -> Lack:
    """The kernel looks for the way back from the container, which is the tunnel, whatever the connection's is."""
    return Lack(
        what=f"{link} takes packets only from where it leads to, and hosts that containers are tunnelled to could not "
        "reach forwarded ports by it",
        mend=f"sysctl -w {_sysctl(link, 'rp_filter')}=2",
    )


def _sysctl(link: str, key: str) -> str:
    """As sysctl(8) takes it: a link with dots in its name has slashes around it."""
    return f"net/ipv4/conf/{link}/{key}" if "." in link else f"net.ipv4.conf.{link}.{key}"


def _filter_lack(chain: Chain, dropped: list[Way], bridges: list[str]) -> Lack:
    routed = [way for way in dropped if way.into != way.out]
    if not routed:
        return Lack(
            what=f"frames between ports of a bridge pass nft chain {chain}, which drops what it does not know",
            mend="sysctl -w net.bridge.bridge-nf-call-iptables=0, or accept `iifname lxcbr*` there",
        )
    shown = ", ".join(map(str, routed[:SHOWN_MAX])) + (", and more" if len(routed) > SHOWN_MAX else "")
    involved = [name for name in bridges if any(name in (way.into, way.out) for way in routed)]
    return Lack(
        what=f"packets {shown} pass nft chain {chain}, which drops what it does not know",
        mend="; ".join(
            f"nft insert rule {chain} {key} {name} accept" for name in involved for key in ("iifname", "oifname")
        ),
    )


def _filters_bridges() -> bool:
    return SWITCH.exists() and SWITCH.read_text().strip() == "1"
