"""Which way packets take between each two hosts of an overlay, and what room it leaves them. Pure and deterministic."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from coordinator.compiling.facts import MTU_ASSUMED, Facts, Pair, pair_of
from proto.model import IPIP_OVERHEAD, VXLAN_OVERHEAD

AUTO, DIRECT, IPIP, VXLAN = "auto", "direct", "ipip", "vxlan"
#: Bytes that each way takes of a packet.
OVERHEADS = {DIRECT: 0, IPIP: IPIP_OVERHEAD, VXLAN: VXLAN_OVERHEAD}


class Ways:
    """The ways between the *involved* hosts of one file, whose overlay is *overlay* (one of config.cluster.OVERLAYS).

    Those that have containers, *homes*, are joined with each other. *peers* are the hosts that the networks of a home
    are tunnelled to: by ipip, and then all else between the two takes that tunnel, too.
    """

    def __init__(
        self,
        overlay: str,
        facts: Facts | None,
        *,
        involved: Sequence[str],
        homes: Collection[str],
        peers: Mapping[str, Collection[str]],
    ) -> None:
        self._overlay = overlay
        self._facts = facts
        self._involved = involved
        self._homes = homes
        self._tunnelled = frozenset(pair_of(host, peer) for host, found in peers.items() for peer in found)
        self._is_uniform = overlay != AUTO and (overlay == IPIP or not self._tunnelled)
        self._probed = facts.pairs if facts else {}

    def method(self, one: str, other: str) -> str:
        """DIRECT, IPIP or VXLAN. IPIP where `auto` was to decide and nobody probed."""
        if self._is_uniform:
            return self._overlay
        pair = pair_of(one, other)
        if pair in self._tunnelled:
            return IPIP
        if self._overlay != AUTO:
            return self._overlay
        found = self._probed.get(pair)
        return found.method if found else IPIP

    def pairs(self) -> Iterator[Pair]:
        """Each two hosts that are joined, in the file's order."""
        for one, other in itertools.combinations(self._involved, 2):
            if pair_of(one, other) in self._tunnelled or (one in self._homes and other in self._homes):
                yield one, other

    def open_pairs(self) -> Iterator[Pair]:
        """Those of them that no tunnel_to decides."""
        return (pair for pair in self.pairs() if pair_of(*pair) not in self._tunnelled)

    def unprobed(self) -> tuple[Pair, ...]:
        """The pairs that `auto` has to decide and nobody probed."""
        if self._overlay != AUTO:
            return ()
        return tuple(pair for pair in self.open_pairs() if pair_of(*pair) not in self._probed)

    def mtu(self) -> int:
        """What every packet of the overlay has room for, whatever way it takes."""
        if not self._is_uniform and (rooms := [self.room(one, other) for one, other in self.pairs()]):
            return min(rooms)
        overhead = OVERHEADS[self._overlay if self._is_uniform else IPIP]
        return min(map(self.underlay_mtu, self._involved), default=MTU_ASSUMED) - overhead

    def room(self, one: str, other: str) -> int:
        """The largest packet that passes between the two."""
        return min(self.underlay_mtu(one), self.underlay_mtu(other)) - OVERHEADS[self.method(one, other)]

    def underlay_mtu(self, host: str) -> int:
        """That of the host's link of the underlay; 1500 where it was not told."""
        found = self._facts.hosts.get(host) if self._facts else None
        return found.underlay_mtu if found and found.underlay_mtu else MTU_ASSUMED

    def overhead(self) -> int:
        """The most that a way in use takes of a packet."""
        if self._is_uniform:
            return OVERHEADS[self._overlay]
        return max((OVERHEADS[self.method(*pair)] for pair in self.pairs()), default=IPIP_OVERHEAD)
