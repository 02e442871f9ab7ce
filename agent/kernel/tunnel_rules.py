"""nft's part of the tunnels: table `ip caas_ipip`, there while there is a tunnel of either realisation.

It stands before anything else looks at a packet, above all before fragments are put together (linux/netfilter_ipv4.h:
-400). What a far end of the kernel's own tunnels sends is checked here whatever link it comes by; what the BPF programs
took is not seen any more. A rule's comment ends in a digest of its text, so that a table that was cut or extended is
told from a whole one without comparing nft's own spelling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from agent.kernel.nft import Nft
from agent.kernel.tunnel_sources import (
    BARE,
    FRAGMENT,
    MALFORMED,
    NESTED,
    OPTIONS,
    OWN_SOURCE,
    REMOTE,
    SOURCE,
    Ends,
    Taken,
)
from proto.marks import HOST, Mark

FAMILY, TABLE = "ip", "caas_ipip"
COUNTERS = {
    REMOTE: "remote",
    SOURCE: "source",
    OWN_SOURCE: "own_source",
    FRAGMENT: "fragment",
    OPTIONS: "options",
    NESTED: "nested",
    BARE: "bare",
    MALFORMED: "malformed",
}
IPIP = 4
_SADDR_BIT = 96  # of the inner header, which is to nft where a transport header would be
Chains = Mapping[str, tuple[str, ...]]
_HOOKS = {
    "arrive": "type filter hook prerouting priority -450; policy accept;",
    "onward": "type filter hook forward priority -150; policy accept;",
}


def make_jumps(ends: Sequence[Ends]) -> Iterable[str]:
    """The rule by which packets of each of *ends* go to a chain of their own."""
    if ends:
        yield f"ip daddr . ip saddr vmap {braces(map(_jump, ends))}"


def make_chains(
    taken: Taken, *, tunnels: Sequence[str], kernels: Sequence[Ends], locals_: Iterable[IPv4Address]
) -> Chains:
    """The rules. *tunnels* are the names of all tunnels, *kernels* the far ends whose packets the kernel's own take,
    *locals_* the addresses at this end of any tunnel."""
    if not tunnels:
        return {}
    names = braces(f'"{name}"' for name in sorted(tunnels))
    return {
        "arrive": (
            # No tunnel takes an inner packet of no version: by those it is tried who can be reached (passage).
            f"ip protocol {IPIP} @th,0,8 0 accept",
            f"ip protocol {IPIP} ip daddr {braces(sorted(set(locals_)))} goto outer",
            *drop_bare(taken, names),
        ),
        # Whom nobody knows the kernel answers itself, unless somebody else's tunnel takes it.
        "outer": (
            *make_jumps(kernels),
            f"counter name {COUNTERS[REMOTE]}",
        ),
        **({"header": tuple(_header(taken.own))} if kernels else {}),
        **{chain_of(ends): ("jump header", *make_sources(taken.sources[ends], _SADDR_BIT)) for ends in kernels},
        "onward": (
            f"ip protocol {IPIP} oifname {names} {drop(NESTED)}",
            *clamp(names),
        ),
    }


def drop_bare(taken: Taken, names: str) -> Iterable[str]:
    """What may only come by a tunnel came without: neither by a link of *names* nor from this host itself.

    Links are looked for last, here and in `clamp`: that is dear, and few packets come to it.
    """
    elsewhere = f'iifname != {names} iifname != "lo"'
    if taken.blocks:
        yield f"ip saddr {braces(taken.blocks)} {elsewhere} {drop(BARE)}"
    if taken.peers and taken.own:
        yield f"ip saddr {braces(taken.peers)} ip daddr {braces(taken.own)} {elsewhere} {drop(BARE)}"


def clamp(names: str) -> Iterable[str]:
    """TCP through the links of *names* has segments that they can carry."""
    for side in ("oifname", "iifname"):
        yield f"tcp flags & (syn | rst) == syn {side} {names} tcp option maxseg size set rt mtu"


def close_unknown(chains: Chains) -> Chains:
    """*chains* where a tunnel of the kernel's own takes packets from anyone: those that nobody knows are dropped."""
    return {**chains, "outer": (*chains["outer"][:-1], drop(REMOTE))}


class TunnelRules:
    """The table, or another of its kind, in the namespace that *nft* works in."""

    def __init__(self, nft: Nft, table: str = TABLE) -> None:
        self._nft = nft
        self._table = table

    def is_as(self, chains: Chains) -> bool:
        """Whether the table has exactly these chains with exactly these rules, or is not there where none is."""
        return self._seen() == self._comments(chains)

    def make(self, chains: Chains) -> None:
        """Make the table so, in one transaction that keeps its counters; remove it where there are no chains."""
        seen = self._seen()
        comments = self._comments(chains)
        if seen == comments:
            return
        place = f"{FAMILY} {self._table}"
        lines = [f"add table {place}"]
        if chains:
            lines += [f"add counter {place} {name}" for name in COUNTERS.values()]
            lines.append(f"flush table {place}")
            lines += [f"delete chain {place} {name}" for name in seen if name not in chains]
            # One that is gone to has to be there first.
            for name in sorted(chains, key=lambda each: each in _HOOKS):
                lines.append(f"add chain {place} {name} {{ {_HOOKS.get(name, '')} }}")
            for name in sorted(chains, key=lambda each: each in _HOOKS):
                for rule, comment in zip(chains[name], comments[name], strict=True):
                    lines.append(f'add rule {place} {name} {rule} comment "{comment}"')
        else:
            lines.append(f"delete table {place}")
        self._nft.change_by_script("\n".join([*lines, ""]), what=f"set the rules of nft table {place}")

    def drops(self) -> dict[str, int]:
        """Packets by reason since the table was made; all 0 where it is not there."""
        reasons = {name: reason for reason, name in COUNTERS.items()}
        found = dict.fromkeys(COUNTERS, 0)
        for item in self._nft.list_table(FAMILY, self._table):
            if counter := item.get("counter"):
                found[reasons[counter["name"]]] = int(counter["packets"])
        return found

    def _seen(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for item in self._nft.list_table(FAMILY, self._table):
            if chain := item.get("chain"):
                found[chain["name"]] = []
            elif rule := item.get("rule"):
                found[rule["chain"]].append(rule.get("comment", ""))
        return found

    def _comments(self, chains: Chains) -> dict[str, list[str]]:
        word = self._table.removeprefix("caas_")
        return {name: [_comment(word, f"{name} {rule}") for rule in rules] for name, rules in chains.items()}


def _comment(word: str, text: str) -> str:
    return str(Mark(HOST, f"{word}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"))


def _header(own: Iterable[IPv4Network]) -> Iterable[str]:
    """What every outer header, and the inner one that follows it, has to be like. The checksums the kernel checks."""
    yield f"ip hdrlength != 5 {drop(OPTIONS)}"
    yield f"ip frag-off & 0x3fff != 0 {drop(FRAGMENT)}"
    yield f"ip length < 40 {drop(MALFORMED)}"
    yield f"@th,0,4 != 4 {drop(MALFORMED)}"
    yield f"@th,4,4 < 5 {drop(MALFORMED)}"
    yield f"@th,72,8 {IPIP} {drop(NESTED)}"
    # Congestion on the way of a packet whose ends know nothing of it (RFC 6040, figure 4).
    yield f"ip ecn ce @th,14,2 0 {drop(MALFORMED)}"
    for network in own:
        yield f"{comes_from(network, _SADDR_BIT)}{drop(OWN_SOURCE)}"


def make_sources(networks: Iterable[IPv4Network], bit: int) -> Iterable[str]:
    """Rules that take the inner sources of *networks* and no others; *bit* is where the address begins, after @th."""
    for network in networks:
        yield f"{comes_from(network, bit)}accept"
    yield drop(SOURCE)


def comes_from(network: IPv4Network, bit: int) -> str:
    """What matches inner sources of *network*, as `make_sources`."""
    length = network.prefixlen
    return f"@th,{bit},{length} {int(network.network_address) >> (32 - length):#x} " if length else ""


def drop(reason: str) -> str:
    """Count under *reason* and drop."""
    return f"counter name {COUNTERS[reason]} drop"


def _jump(ends: Ends) -> str:
    local, remote = ends
    return f"{local} . {remote} : goto {chain_of(ends)}"


def chain_of(ends: Ends) -> str:
    """The chain of the packets that come from there to here."""
    local, remote = ends
    return f"from_{remote}_to_{local}"


def braces(items: Iterable[object]) -> str:
    """*items* as nft writes a set."""
    return f"{{ {', '.join(map(str, items))} }}"
