"""Packet filters that are not ours and can drop a cluster's packets: what they drop for sure, and where they only may.

What is routed, and what is bridged with br_netfilter, is led through the chains by agent.kernel.forward_chains. A rule
that asks for more than the way may drop something: such a chain is a finding that is not sure.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from agent.core.findings import containers_on, networks_by
from agent.kernel.forward_chains import Way, find_dropped
from agent.kernel.inside import run_inside
from agent.kernel.links import Links
from agent.kernel.nft import Nft
from proto.model import KIND_IPIP, KIND_VXLAN, Bridge, Cause, Finding, HostState, Ipip, Vxlan

_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_OLD_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_OLD = ("iptables-legacy", "-w", "-S", "FORWARD")
#: What a tunnel's own packets pass at its ends, where the tunnel is the kernel's.
_OUTER = frozenset({"prerouting", "input", "output", "postrouting"})
_DROPS = frozenset({"drop", "reject"})
Chain = Mapping[str, Any]
#: Containers and far networks that use a way; with `crossing` only what leaves the host.
Users = tuple[tuple[str, ...], tuple[IPv4Network, ...], bool]


def find_filters(nft: Nft, seen: Links, desired: HostState) -> Iterator[Finding]:
    """Raises CaasError."""
    ruleset = nft.list_everything()
    ways = _ways(desired, bridged=run_inside(nft.netns, _filters_bridges))
    dropped = find_dropped(ruleset, ways)
    for place, those in dropped.items():
        for way in those:
            near, far, crossing = ways[way]
            yield Finding(
                cause=Cause.FORWARD,
                object=str(place),
                text=f"nft chain {place} drops packets {way}",
                hint=f"nft insert rule {place} iifname {way.into} oifname {way.out} accept",
                near=near,
                far=far,
                crossing=crossing,
            )
    for chain in _foreign_chains(ruleset):
        name = f"{chain['family']} {chain['table']} {chain['name']}"
        if name not in map(str, dropped):
            yield from _find_doubtful(chain, name, ruleset, seen, desired)
    if old := run_inside(nft.netns, read_old_filter):
        near = tuple(each for address in desired.addresses for each in containers_on(desired, address.link))
        sure = "-P FORWARD DROP" in old and "ACCEPT" not in old
        yield Finding(cause=Cause.FORWARD, object="FORWARD", text=old, hint=" ".join(_OLD), near=near, sure=sure)


def _ways(desired: HostState, *, bridged: bool) -> dict[Way, Users]:
    """From each routed bridge to each tunnel and back; and within a bridge where that is filtered, too."""
    found: dict[Way, Users] = {}
    for address in desired.addresses:
        near = containers_on(desired, address.link)
        for tunnel in (link.name for link in desired.links if isinstance(link, Ipip | Vxlan)):
            far = networks_by(desired, tunnel)
            found[Way(address.link, tunnel)] = found[Way(tunnel, address.link)] = (near, far, True)
    if bridged:
        for bridge in (link.name for link in desired.links if isinstance(link, Bridge)):
            found[Way(bridge, bridge)] = (containers_on(desired, bridge), (), False)
    return found


def _foreign_chains(ruleset: Sequence[Chain]) -> Iterator[Chain]:
    for chain in (each["chain"] for each in ruleset if "chain" in each):
        if "hook" in chain and not str(chain["table"]).startswith("caas"):
            yield chain


def _find_doubtful(
    chain: Chain, name: str, ruleset: Sequence[Chain], seen: Links, desired: HostState
) -> Iterator[Finding]:
    """A chain that may drop: its policy does, or a rule anywhere in its table, for chains jump to chains."""
    rules = [
        each["rule"]
        for each in ruleset
        if "rule" in each
        and (each["rule"]["family"], each["rule"]["table"]) == (chain["family"], chain["table"])
        and any(_DROPS & set(statement) for statement in each["rule"].get("expr", ()))
    ]
    drops_rest = chain.get("policy") == "drop"
    if not rules and not drops_rest:
        return
    text = f"nft chain {name} {'drops what it does not know' if drops_rest else 'is in a table with rules that drop'}"
    if chain["hook"] == "forward":
        is_bridge = chain["family"] == "bridge"
        yield Finding(
            cause=Cause.FORWARD, object=name, text=text, hint="nft list ruleset", crossing=not is_bridge, sure=False
        )
    elif chain["hook"] in _OUTER and chain["family"] in ("ip", "inet"):
        for kind, cause in ((KIND_IPIP, Cause.PROTOCOL_4), (KIND_VXLAN, Cause.FILTERED)):
            if far := _networks_of(kind, seen, desired):
                what = "ip protocol 4" if kind == KIND_IPIP else "udp dport 4789"
                hint = f"nft insert rule {name} {what} accept"
                yield Finding(cause=cause, object=name, text=text, hint=hint, far=far, sure=drops_rest)


def _networks_of(kind: str, seen: Links, desired: HostState) -> tuple[IPv4Network, ...]:
    """Where tunnels lead that are devices of the kernel's own of that *kind*."""
    names = [link.name for link in desired.links if isinstance(link, Ipip | Vxlan)]
    mine = [name for name in names if (link := seen.by_name.get(name)) is not None and link.kind == kind]
    return tuple(network for name in mine for network in networks_by(desired, name))


def _filters_bridges() -> bool:
    return _BRIDGED.exists() and _BRIDGED.read_text().strip() == "1"


def read_old_filter() -> str:
    """What iptables-legacy has at FORWARD; nft does not show it. "" where there is none, or it drops nothing."""
    if not _OLD_TABLES.exists() or "filter" not in _OLD_TABLES.read_text().split():
        return ""
    try:
        done = subprocess.run(_OLD, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "the old iptables filters, and its program is not here to ask"
    words = {word for line in done.stdout.splitlines() for word in line.split()}
    return f"iptables-legacy: {'; '.join(done.stdout.splitlines())}" if {"DROP", "REJECT"} & words else ""
