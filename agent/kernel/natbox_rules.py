"""NATBox's nft table in the kernel: its rules, and what the VLANs have in its sets (natbox_chains, natbox_elements)."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from agent.kernel import natbox_elements as elements
from agent.kernel.natbox_chains import (
    CLOSED,
    CLOSED_SCRIPT,
    TABLE,
    UNASKED,
    VLAN_REASONS,
    Chain,
    make_comments,
    make_script,
)
from agent.kernel.natbox_layout import read_inner_vid
from agent.kernel.natbox_path import SeenPiece
from agent.kernel.nft import Nft
from agent.kernel.nft_table import Element, NftTable, Place
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code

_COUNTER_PACKETS = 2  # NFTA_COUNTER_PACKETS


class NatboxRules:
    """The table in the namespace *netns* (None: the caller's)."""

    title = "nft rules"

    def __init__(self, chains: tuple[Chain, ...], *, netns: str | None, tally: Tally) -> None:
        self._chains = chains
        self.numbers = (0, 0)
        """The ifindexes of trunk and uplink as they are now."""
        self.own_addresses: frozenset[ipaddress.IPv4Address] = frozenset()
        """The uplink's own as they are now."""
        self._nft = Nft(netns=netns, tally=tally)
        self._table = NftTable(TABLE, netns=netns, tally=tally)

    def close(self) -> None:
        self._table.close()

    def look(self) -> SeenPiece:
        """As wanted: exactly our chains with exactly our rules, and the uplink's addresses known to them."""
        rules = self._table.list_rules()
        is_there = rules == self._wanted() and self._here() == self._wanted_here()
        return SeenPiece(is_there=is_there, is_left=rules is not None)

    def check(self) -> None:
        """Let the kernel try the table without keeping it. UNSUPPORTED where it lacks something."""
        try:
            script = make_script(self._chains, self.numbers).replace(TABLE, f"{TABLE}_try")
            self._nft.try_script(script, what="try NATBox's nft rules")
        except CaasError as exc:
            raise CaasError(Code.UNSUPPORTED, exc.message, hint=exc.hint) from exc

    def make(self) -> None:
        """What the sets hold stays, counters and publications, unless another version made them otherwise."""
        if self._table.list_rules() != self._wanted():
            self._make_rules()
        here, wanted = self._here(), self._wanted_here()
        self._table.change(
            remove=[(elements.HERE, Element(key)) for key in sorted(here - wanted)],
            add=[(elements.HERE, Element(key)) for key in sorted(wanted - here)],
        )

    def _make_rules(self) -> None:
        what = "make NATBox's nft rules"
        seen = self._table.list_rules() or {}
        gone = tuple(sorted(seen.keys() - {chain.name for chain in self._chains}))
        try:
            self._nft.change_by_script(make_script(self._chains, self.numbers, gone=gone), what=what)
        except CaasError:
            if not seen:
                raise
            # Sets of another shape: nft takes no other of the same name in one transaction with their removal.
            self._nft.change_by_script(CLOSED_SCRIPT, what=what)
            self._nft.change_by_script(make_script(self._chains, self.numbers, gone=(CLOSED,)), what=what)

    def remove(self) -> None:
        """Already gone is success."""
        script = f"table ip {TABLE}\ndelete table ip {TABLE}\n"
        self._nft.change_by_script(script, what="remove NATBox's nft rules")

    def observe_all(self) -> dict[int, list[Place]]:
        """What VLANs have in the sets, by VID."""
        found: dict[int, list[Place]] = {}
        for name in elements.OF_VLAN:
            for element in self._table.list_elements(name):
                found.setdefault(elements.read_vid((name, element)), []).append((name, element))
        return found

    def observe(self, vid: int, expected: Iterable[Place]) -> list[Place]:
        """Which of *expected* the VLAN has, and what it has where every VLAN may have something."""
        places = {(name, element.key) for name, element in expected} | set(elements.make_known_keys(vid))
        found = [(name, element) for name, key in sorted(places) if (element := self._table.get(name, key)) is not None]
        return [place for place in found if elements.read_vid(place) == vid]

    def publishes(self) -> bool:
        """Whether any VLAN publishes something."""
        return bool(self._table.list_elements(elements.OWNERS))

    def own_limits(self) -> dict[int, int]:
        """How many connections each VLAN may have that has a limit of its own."""
        found = self._table.list_elements(elements.HELD_OWN)
        return {elements.read_vid((elements.HELD_OWN, one)): elements.read_limit(one) for one in found}

    def change(self, vid: int, *, before: Sequence[Place], after: Sequence[Place]) -> None:
        """In one transaction: what *before* has and *after* has not goes, the rest of *after* comes."""
        if not before and not after:
            return
        wanted = {(name, element.key): (name, element) for name, element in after}
        now = {(name, element.key): (name, element) for name, element in self._find(vid, before, after)}
        self._table.change(
            remove=[now[key] for key in sorted(now) if wanted.get(key) != now[key]],
            add=[wanted[key] for key in sorted(wanted) if now.get(key) != wanted[key]],
        )

    def _find(self, vid: int, places: Iterable[Place], wanted: Iterable[Place] = ()) -> list[Place]:
        """As `observe`, of *places* and *wanted*. CONFLICT where another VLAN has a place of *wanted*."""
        keys = {(name, element.key) for name, element in (*places, *wanted)} | set(elements.make_known_keys(vid))
        found = [(name, element) for name, key in sorted(keys) if (element := self._table.get(name, key)) is not None]
        needed = {(name, element.key) for name, element in wanted}
        for name, element in found:
            owner = elements.read_vid((name, element))
            if owner != vid and (name, element.key) in needed:
                raise CaasError(
                    Code.CONFLICT,
                    f"VID {vid}: a port or address that it is to publish belongs to VID {owner} (nft map {name})",
                    hint="take it from the one first, then give it to the other",
                )
        return [place for place in found if elements.read_vid(place) == vid]

    def find_with_external(self, external: ipaddress.IPv4Address) -> set[int]:
        """The VLANs that use *external*, as a source or for a container."""
        places = [(elements.SOURCES, one) for one in self._table.list_elements(elements.SOURCES)]
        own = self._table.get(elements.INSIDE, external.packed)
        found = {elements.read_vid(place) for place in places if place[1].data == external.packed}
        return found | ({elements.read_vid((elements.INSIDE, own))} if own is not None else set())

    def vlan_drops(self) -> dict[int, dict[str, int]]:
        """What the rules dropped of each VID since its entry was made, by reason."""
        found: dict[int, dict[str, int]] = {}
        for name, reason in VLAN_REASONS.items():
            for element in self._table.list_elements(name):
                vid = read_inner_vid(ipaddress.IPv4Address(element.key))
                found.setdefault(vid, {})[reason] = _read_packets(element)
        return found

    def unasked(self) -> int:
        """How many packets came in from the uplink that no connection had asked for."""
        for item in self._nft.list_thing("counter", "ip", TABLE, UNASKED):
            if "counter" in item:
                return int(item["counter"]["packets"])
        return 0

    def forget(self, vid: int, places: Sequence[Place]) -> None:
        """Remove *places* and whatever else the VLAN has where every VLAN may have something; its drops begin again."""
        key = elements.make_vlan_key(vid)
        of_rules = (*VLAN_REASONS, elements.HELD, elements.FRESH)
        self._table.change(clear=[(name, key) for name in of_rules], remove=self._find(vid, places))

    def _wanted(self) -> Mapping[str, list[str]]:
        return _make_wanted(self._chains, self.numbers)

    def _here(self) -> frozenset[bytes]:
        return frozenset(element.key for element in self._table.list_elements(elements.HERE))

    def _wanted_here(self) -> frozenset[bytes]:
        return frozenset(address.packed for address in self.own_addresses)


@functools.lru_cache(maxsize=1)
def _make_wanted(chains: tuple[Chain, ...], numbers: tuple[int, int]) -> Mapping[str, list[str]]:
    """The comments of each chain's rules, as NftTable.list_rules has them. The same as long as the links are."""
    return {chain.name: list(make_comments(chain, numbers)) for chain in chains}


def _read_packets(element: Element) -> int:
    return int.from_bytes(element.expression.attributes[_COUNTER_PACKETS], "big") if element.expression else 0
