"""What may come out of the tunnels of a host, derived from its routes: pure, and the same for both realisations.

Whoever a route of ours sends packets to by a tunnel may answer by it, and nobody else. So there is nothing to
configure, and a tunnel whose routes are gone takes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from proto.model import Address, Ipip, Masquerade, Route, Vxlan
from proto.model.network import TABLE_MAIN

#: Why a packet is not taken, in the order in which the reasons are shown.
REMOTE = "unknown remote"
SOURCE = "source outside the remote's block"
OWN_SOURCE = "source of our own block"
FRAGMENT = "outer fragment"
OPTIONS = "outer options"
NESTED = "ipip in ipip"
BARE = "bare inner packet"
CHECKSUM = "wrong checksum"
MALFORMED = "malformed"
REASONS = (REMOTE, SOURCE, OWN_SOURCE, FRAGMENT, OPTIONS, NESTED, BARE, CHECKSUM, MALFORMED)
#: Our address and that of the far end.
Ends = tuple[IPv4Address, IPv4Address]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What is taken from whom.

    `sources` has the inner sources of each far end, `names` the tunnel that they come out of; `own` are this host's
    own blocks. Packets from `blocks` come by a tunnel or not at all; those from `peers`, which are known by the
    underlay too, only where they go to a block of our own.
    """

    sources: dict[Ends, tuple[IPv4Network, ...]]
    names: dict[Ends, str]
    own: tuple[IPv4Network, ...]
    blocks: tuple[IPv4Network, ...]
    peers: tuple[IPv4Network, ...]


def find_taken(tunnels: Iterable[Ipip | Vxlan], routes: Iterable[Route], own: Iterable[Address]) -> Taken:
    """*own* are the addresses on links of ours that are no tunnels."""
    by_name = {tunnel.name: tunnel for tunnel in tunnels}
    sources: dict[Ends, set[IPv4Network]] = {}
    names: dict[Ends, str] = {}
    # Between two hosts there may be a tunnel of their own and one that leads to any: what comes is the former's.
    for tunnel in sorted(by_name.values(), key=lambda each: each.name):
        if tunnel.remote is not None:
            sources[tunnel.local, tunnel.remote] = set()
            names[tunnel.local, tunnel.remote] = tunnel.name
    blocks: set[IPv4Network] = set()
    peers: set[IPv4Network] = set()
    for route in routes:
        through = by_name.get(route.dev)
        remote = (through.remote or route.encap) if through else None
        if through is None or remote is None:
            continue
        names.setdefault((through.local, remote), through.name)
        sources.setdefault((through.local, remote), set()).add(route.dst)
        if route.dst.prefixlen:
            (blocks if route.table == TABLE_MAIN else peers).add(route.dst)
    ours = tuple(collapse_addresses(address.address.network for address in own))
    return Taken(
        sources={ends: tuple(sorted(found)) for ends, found in sorted(sources.items())},
        names=names,
        own=ours,
        blocks=subtract(blocks, ours),
        peers=subtract(peers, ours),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """What this host translates: the sources of whole networks, and the containers that ports are forwarded to.

    Half a masquerade exempts everything, half a forward leads to 0.0.0.0: until they are mended nothing is sure.
    """

    masquerades: tuple[Masquerade, ...] = ()
    targets: frozenset[IPv4Address] = frozenset()

    def leaves_alone(self, address: IPv4Address) -> bool:
        """Whether nothing that the container with *address* sends answers what came by a forwarded port."""
        return not self.targets & {address, IPv4Address(0)}

    def find_ways(self, block: IPv4Network) -> tuple[IPv4Network, ...]:
        """Where packets from *block* go as they are."""
        found = [each for each in self.masquerades if each.source.overlaps(block)]
        if not found:
            return (IPv4Network("0.0.0.0/0"),)
        exempt = found[0].exempt
        return exempt if len(found) == 1 and all(each.prefixlen for each in exempt) else ()


def subtract(networks: Iterable[IPv4Network], away: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """*networks* without those parts of them that are *away*: a route may be wider than what is behind it."""
    left = list(networks)
    for block in away:
        left = [
            part
            for each in left
            if not each.subnet_of(block)
            for part in (each.address_exclude(block) if block.subnet_of(each) else (each,))
        ]
    return tuple(collapse_addresses(left))


def judge_prefixes(sources: Iterable[IPv4Network], own: Iterable[IPv4Network]) -> dict[IPv4Network, bool]:
    """Of the longest of these prefixes that a source has: whether it is the far end's, or in a block of our own.

    One look at a longest prefix then says all of a packet that may come; who has none is not taken.
    """
    own = tuple(own)
    found = {network: not any(network.subnet_of(block) for block in own) for network in sources}
    return found | {block: False for block in own if any(block.subnet_of(network) for network in found)}
