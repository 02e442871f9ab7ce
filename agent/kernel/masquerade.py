"""Masquerading: three rules of nft table `ip caas` for each Masquerade. One translates and holds all exemptions; two
lower the segment size that TCP's ends tell each other where packets of its source leave for the world or come from it.

A segment is at most what both ways carry: the link it leaves by and the bridge it came from (nft(8): rt mtu looks at
the route to the destination and at the one back). So no packet is too large for the chain of MTUs, also where nobody
hears of "fragmentation needed". Inside the overlay the tunnels do the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from agent.kernel.translation import Seen, Translation, Wanted, header, match, network_from_nft, network_to_nft
from proto.errors import CaasError, Code
from proto.model import Masquerade

CHAIN, CLAMPS = "postrouting", "forward"
#: What a masquerade exempts that lacks one of its rules: everything. The next plan changes it.
BROKEN = (IPv4Network("0.0.0.0/0"),)
_SYN = match({"&": [header("tcp", "flags"), ["syn", "rst"]]}, "syn")
_CLAMP = {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}}}}
_TRANSLATES = "masquerade"
_ENDS = ("saddr", "daddr")


def read_masquerades(rules: Iterable[Seen]) -> list[Masquerade]:
    """Those among the table's rules of ours."""
    found: dict[IPv4Network, dict[str, list[Seen]]] = {}
    for rule in rules:
        if piece := _read(rule):
            found.setdefault(piece[1], {}).setdefault(piece[0], []).append(rule)
    return [_join(source, pieces) for source, pieces in found.items()]


def add_masquerade(table: Translation, wanted: Masquerade) -> None:
    """CONFLICT where its source has a rule."""
    if _find(table, wanted):
        raise CaasError(Code.CONFLICT, f"create masquerade {wanted.name}: {wanted.source} has a rule already")
    table.change(what=f"create masquerade {wanted.name}", mark=wanted.mark, make=_rules(wanted))


def replace_masquerade(table: Translation, before: Masquerade, after: Masquerade) -> None:
    """NOT_FOUND where *before* has no rule. What was mended is never broken again: an undo finds nothing to do."""
    found = _find(table, before)
    if not found:
        raise CaasError(Code.NOT_FOUND, f"change masquerade {before.name}: there is no such rule")
    if after.exempt != BROKEN:
        table.change(what=f"change masquerade {after.name}", mark=after.mark, make=_rules(after), remove=found)


def delete_masquerade(table: Translation, unwanted: Masquerade) -> None:
    """Already gone is success."""
    found = _find(table, unwanted)
    table.change(what=f"delete masquerade {unwanted.name}", mark=unwanted.mark, remove=found)


def _rules(wanted: Masquerade) -> list[Wanted]:
    exempt = (match(header("ip", "daddr"), network_to_nft(each), operator="!=") for each in wanted.exempt)
    source = network_to_nft(wanted.source)
    # Fully random: two containers behind one address must not guess, or take, each other's source ports.
    translates = (match(header("ip", "saddr"), source), *exempt, {"masquerade": {"flags": "fully-random"}})
    return [
        Wanted(CHAIN, translates),
        *(Wanted(CLAMPS, (match(header("ip", end), source), _SYN, _CLAMP)) for end in _ENDS),
    ]


def _find(table: Translation, thing: Masquerade) -> list[Seen]:
    return [rule for rule in table.list_rules() if (piece := _read(rule)) and piece[1] == thing.source]


def _read(rule: Seen) -> tuple[str, IPv4Network] | None:
    """Which of a masquerade's rules it is, and its source; None for our mark on any other."""
    by_end = {end: rule.matches(header("ip", end)) for end in _ENDS}
    if rule.chain == CHAIN and rule.says("masquerade") and len(by_end["saddr"]) == 1:
        return _TRANSLATES, network_from_nft(by_end["saddr"][0])
    if rule.chain == CLAMPS and rule.says("mangle"):
        for end, sources in by_end.items():
            if len(sources) == 1:
                return end, network_from_nft(sources[0])
    return None


def _join(source: IPv4Network, pieces: dict[str, list[Seen]]) -> Masquerade:
    """What *pieces*, the rules of each kind, are together."""
    rules = [rule for each in pieces.values() for rule in each]
    marks = {rule.mark for rule in rules}
    if {kind: len(each) for kind, each in pieces.items()} != dict.fromkeys((_TRANSLATES, *_ENDS), 1) or len(marks) > 1:
        return Masquerade(source=source, exempt=BROKEN, mark=rules[0].mark)
    exempt = pieces[_TRANSLATES][0].matches(header("ip", "daddr"))
    return Masquerade(source=source, exempt=tuple(map(network_from_nft, exempt)), mark=rules[0].mark)
