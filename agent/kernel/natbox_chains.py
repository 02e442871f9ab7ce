"""The rules of NATBox's nftables: one table, as many rules for 4,094 VLANs as for one. Pure.

What differs from one VLAN to the next is in sets and maps (natbox_elements): a rule looks its packet up there. What
most packets meet comes first and compares link numbers (iif, oif), which is cheaper; what drops compares names, which
a link that was made anew still has.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from agent.kernel import natbox_elements as elements
from agent.kernel.natbox_layout import INNER, MARK_ACROSS, MARK_OUT
from proto.marks import HOST, Mark

TABLE = "caas_natbox"
#: Drops that only the kernel's stack can see, by the name of the set (per VID) or counter that keeps them.
VLAN_REASONS = {
    "to_natbox": "to NATBox's own address",
    "astray": "not to the uplink",
    "too_many": "too many connections",
    "too_fast": "too many new connections",
}
UNASKED = "unasked"
UNASKED_REASON = "nobody asked for it"
SETS = {
    **elements.SETS,
    **dict.fromkeys(VLAN_REASONS, "set {0} {{ type ipv4_addr; size 8192; flags dynamic; counter; }}"),
}
FROM, TO = "ip saddr & 255.255.0.0", "ip daddr & 255.255.0.0"
_OURS = f"ip saddr {INNER} meta mark & 0xfffff000 == {MARK_OUT:#x} ct state new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain: its name, where it hooks in ("" where others jump to it), and its rules in order."""

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """The daemon's own address and TCP port: open on the uplink where that is its link."""

    address: ipaddress.IPv4Address
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The limits of a VLAN that has none of its own: connections at a time, and new ones per second."""

    connections: int
    connections_per_second: int


def make_shares(most: int) -> Shares:
    """NATBox's own limits where the kernel's table holds *most* connections (0: unknown): a sixteenth of it each."""
    return Shares(connections=max(64, (most or 1 << 16) // 16), connections_per_second=1000)


def make_chains(*, trunk: str, uplink: str, listen: Listen | None, shares: Shares) -> tuple[Chain, ...]:
    """The rules for these two links.

    What comes from a VLAN may go to the uplink, and to what is published; from the uplink may come answers, and what
    somebody publishes. No more. Each new connection is counted against the limits of its VLANs, and marked with one.
    """
    return (
        _own(trunk, uplink, listen),
        Chain(name="limit_from", hook="", rules=_limit(shares, FROM)),
        Chain(name="limit_to", hook="", rules=_limit(shares, TO)),
        *_begin(),
        *_pass(trunk, uplink),
        Chain(
            name="say",
            hook="type filter hook output priority -10",
            rules=(f'oifname "{trunk}" ct state related meta l4proto icmp accept', f'oifname "{trunk}" drop'),
        ),
        *_translate(trunk, uplink),
    )


def _own(trunk: str, uplink: str, listen: Listen | None) -> Chain:
    service = (
        (f'iifname "{uplink}" fib daddr . iif type local ip daddr {listen.address} tcp dport {listen.port} accept',)
        if listen is not None
        else ()
    )
    return Chain(
        name="own",
        hook="type filter hook input priority -10",
        rules=(
            f'iifname "{trunk}" update @to_natbox {{ {FROM} }}',
            f'iifname "{trunk}" drop',
            f'iifname "{uplink}" ct state established,related accept',
            f'iifname "{uplink}" ip daddr @{elements.HERE} icmp type echo-request accept',
            *service,
            f'iifname "{uplink}" counter name {UNASKED} drop',
        ),
    )


def _limit(shares: Shares, vlan: str) -> tuple[str, ...]:
    """Where the VLAN has an element, that one's limit counts, and its own statement says whether it is exceeded; where
    it has none, the rule makes one with NATBox's. `!=` looks without asking the element's statement.
    """
    rate = shares.connections_per_second
    fast, many = f"update @too_fast {{ {vlan} }} drop", f"update @too_many {{ {vlan} }} drop"
    shared_rate = f"limit rate over {rate}/second burst {rate} packets"
    return (
        f"{vlan} @{elements.FRESH_OWN} {fast}",
        f"{vlan} != @{elements.FRESH_OWN} add @{elements.FRESH} {{ {vlan} {shared_rate} }} {fast}",
        f"{vlan} @{elements.HELD_OWN} {many}",
        f"{vlan} != @{elements.HELD_OWN} add @{elements.HELD} {{ {vlan} ct count over {shares.connections} }} {many}",
    )


def _begin() -> tuple[Chain, ...]:
    """A new connection of a VLAN's: out-bound, in-bound, or from one VLAN to what another (or itself) publishes."""
    return (
        Chain(name="begin_out", hook="", rules=("jump limit_from", "ct mark set meta mark accept", "drop")),
        Chain(
            name="begin_in",
            hook="",
            rules=("jump limit_to", f"ct mark set {TO} map @{elements.OWNERS} accept", "drop"),
        ),
        Chain(
            name="begin_across",
            hook="",
            rules=(
                "jump limit_from",
                "jump limit_to",
                f"ct mark set meta mark ^ {MARK_OUT ^ MARK_ACROSS:#x} accept",
                "drop",
            ),
        ),
    )


def _pass(trunk: str, uplink: str) -> tuple[Chain, ...]:
    """A connection is confirmed once its first packet has passed; it is `new` until it was answered, and limits must
    not count it again with each packet until then. An inner address is nobody's outside.
    """
    clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    return (
        Chain(
            name="from_vlan",
            hook="",
            rules=(
                clamp,
                f'oif "{uplink}" ct status confirmed accept',
                f'oif "{uplink}" {_OURS} goto begin_out',
                f'oif "{trunk}" ct status dnat ct status confirmed accept',
                f'oif "{trunk}" ct status dnat {_OURS} goto begin_across',
                f"update @astray {{ {FROM} }}",
                "drop",
            ),
        ),
        Chain(
            name="from_uplink",
            hook="",
            rules=(
                clamp,
                f'oif "{trunk}" ct status confirmed ip saddr != {INNER} accept',
                f'oif "{trunk}" ct status dnat ct state new ip saddr != {INNER} goto begin_in',
                f"counter name {UNASKED} drop",
            ),
        ),
        Chain(
            name="pass",
            hook="type filter hook forward priority -10",
            rules=(
                f'iif "{trunk}" goto from_vlan',
                f'iif "{uplink}" goto from_uplink',
                f'iifname {{ "{trunk}", "{uplink}" }} drop',
                f'oifname "{trunk}" drop',
            ),
        ),
    )


def _translate(trunk: str, uplink: str) -> tuple[Chain, ...]:
    """Only the first packet of a connection comes here. To a VLAN nobody of a VLAN comes by an inner address."""
    where = f'iif {{ "{trunk}", "{uplink}" }}'
    door = "meta l4proto . th dport"
    own, source = f"ip saddr map @{elements.OUTSIDE}", f"{FROM} map @{elements.SOURCES}"
    return (
        Chain(
            name="publish",
            hook="type nat hook prerouting priority -100",
            rules=(
                f"{where} meta l4proto {{ tcp, udp }} dnat ip to ip daddr . {door} map @{elements.PUBLISHED}",
                f"{where} meta l4proto {{ tcp, udp }} ip daddr @{elements.HERE} "
                f"dnat ip to {door} map @{elements.PUBLISHED_HERE}",
                f"{where} dnat ip to ip daddr map @{elements.INSIDE}",
            ),
        ),
        Chain(
            name="translate",
            hook="type nat hook postrouting priority 100",
            rules=(
                f'oifname {{ "{trunk}", "{uplink}" }} ip saddr {INNER} snat ip to {own}',
                f'oifname {{ "{trunk}", "{uplink}" }} ip saddr {INNER} snat ip to {source} fully-random',
                f'oifname "{uplink}" ip saddr {INNER} masquerade fully-random',
                f'oifname "{trunk}" ip saddr {INNER} snat ip to ct original ip daddr fully-random',
            ),
        ),
    )


def make_comments(chain: Chain, numbers: tuple[int, int]) -> tuple[str, ...]:
    """The comments of *chain*'s rules, in order. *numbers* are the links', which `iif` and `oif` stand for.

    A comment ends in a digest of the rule and of the sets that there are, so that a table that was cut, extended or
    made by another version is told from a whole one without comparing nft's own spelling.
    """
    digests = (hashlib.sha256(f"{numbers}{SETS}{chain.hook}\0{rule}".encode()).hexdigest()[:12] for rule in chain.rules)
    return tuple(str(Mark(HOST, f"natbox-{chain.name}-{digest}")) for digest in digests)


def make_script(chains: tuple[Chain, ...], numbers: tuple[int, int], *, gone: tuple[str, ...] = ()) -> str:
    """Input for `nft -f`: the rules as wanted in place of what there is, in one transaction; sets keep their elements.

    *gone* are chains that are there and not wanted. FAILED by nft where a set or a hook is there in another shape.
    """
    lines = [f"add table ip {TABLE}", f"flush table ip {TABLE}", *(f"delete chain ip {TABLE} {name}" for name in gone)]
    lines += [f"table ip {TABLE} {{", *(" " + text.format(name) for name, text in SETS.items())]
    lines.append(f" counter {UNASKED} {{ }}")
    for chain in chains:
        lines += [f" chain {chain.name} {{", *([f"  {chain.hook}; policy accept;"] if chain.hook else [])]
        lines += [
            f'  {rule} comment "{comment}"'
            for rule, comment in zip(chain.rules, make_comments(chain, numbers), strict=True)
        ]
        lines.append(" }")
    # What the rules made by themselves has the share of the rules before.
    lines += ["}", *(f"flush set ip {TABLE} {name}" for name in (elements.HELD, elements.FRESH)), ""]
    return "\n".join(lines)


#: In the place of whatever table there is: one that lets nothing pass, until the rules are there.
CLOSED = "closed"
CLOSED_SCRIPT = f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
 chain {CLOSED} {{
  type filter hook forward priority -10; policy drop;
 }}
}}
"""
