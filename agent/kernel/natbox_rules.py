"""NATBox's nftables: one table, as many rules for 4,094 VLANs as for one. Adding a VLAN writes nothing here.

A rule's comment ends in a digest of its text, so that a table that was cut, extended or made by another version is
told from a whole one without comparing nft's own spelling of rules.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from agent.kernel.natbox_layout import INNER, MARK_OUT, make_inner_subnet, read_inner_vid
from agent.kernel.nft import Nft
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.marks import HOST, Mark

TABLE = "caas_natbox"
#: Drops that only the kernel's stack can see, by the name of the set (per VID) or counter that keeps them.
VLAN_REASONS = {"to_natbox": "to NATBox's own address", "astray": "not to the uplink"}
UNASKED = "unasked"
UNASKED_REASON = "nobody asked for it"


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


def make_chains(*, trunk: str, uplink: str, listen: Listen | None) -> tuple[Chain, ...]:
    """The rules for these two links: what comes from a VLAN may go to the uplink, and its answers back. No more.

    What most packets meet comes first and compares link numbers (iif, oif), which is cheaper; what drops compares
    names, which a link that was made anew still has. New connections get the mark of their VLAN.
    """
    clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    vlan = "ip saddr & 255.255.0.0"
    service = (
        (f'iifname "{uplink}" fib daddr . iif type local ip daddr {listen.address} tcp dport {listen.port} accept',)
        if listen is not None
        else ()
    )
    return (
        Chain(
            name="own",
            hook="type filter hook input priority -10",
            rules=(
                f'iifname "{trunk}" update @to_natbox {{ {vlan} }}',
                f'iifname "{trunk}" drop',
                f'iifname "{uplink}" ct state established,related accept',
                f'iifname "{uplink}" icmp type echo-request accept',
                *service,
                f'iifname "{uplink}" counter name {UNASKED} drop',
            ),
        ),
        Chain(
            name="from_vlan",
            hook="",
            rules=(
                clamp,
                f'oif "{uplink}" ct state established,related accept',
                f'oif "{uplink}" ip saddr {INNER} meta mark & 0xfffff000 == {MARK_OUT:#x} '
                "ct state new ct mark set meta mark accept",
                f"update @astray {{ {vlan} }}",
                "drop",
            ),
        ),
        Chain(
            name="from_uplink",
            hook="",
            rules=(
                clamp,
                f'oif "{trunk}" ct state established,related accept',
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
        Chain(
            name="say",
            hook="type filter hook output priority -10",
            rules=(f'oifname "{trunk}" ct state related meta l4proto icmp accept', f'oifname "{trunk}" drop'),
        ),
        Chain(
            name="translate",
            hook="type nat hook postrouting priority 100",
            rules=(f'oifname "{uplink}" ip saddr {INNER} masquerade fully-random',),
        ),
    )


def make_comments(chain: Chain, numbers: tuple[int, int]) -> tuple[str, ...]:
    """The comments of *chain*'s rules, in order. *numbers* are the links', which `iif` and `oif` stand for."""
    digests = (hashlib.sha256(f"{numbers}{chain.hook}\0{rule}".encode()).hexdigest()[:12] for rule in chain.rules)
    return tuple(str(Mark(HOST, f"natbox-{chain.name}-{digest}")) for digest in digests)


def make_script(chains: tuple[Chain, ...], numbers: tuple[int, int]) -> str:
    """Input for `nft -f`: the table as wanted, in place of what there is, in one transaction."""
    lines = [f"table ip {TABLE}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
    lines += [f" set {name} {{ type ipv4_addr; size 8192; flags dynamic; counter; }}" for name in VLAN_REASONS]
    lines.append(f" counter {UNASKED} {{ }}")
    for chain in chains:
        lines += [f" chain {chain.name} {{", *([f"  {chain.hook}; policy accept;"] if chain.hook else [])]
        lines += [
            f'  {rule} comment "{comment}"'
            for rule, comment in zip(chain.rules, make_comments(chain, numbers), strict=True)
        ]
        lines.append(" }")
    return "\n".join([*lines, "}", ""])


class NatboxRules:
    """The table in the namespace *netns* (None: the caller's)."""

    title = "nft rules"

    def __init__(self, chains: tuple[Chain, ...], *, netns: str | None, tally: Tally) -> None:
        self._chains = chains
        self.numbers = (0, 0)
        """The ifindexes of trunk and uplink as they are now."""
        self._nft = Nft(netns=netns, tally=tally)

    def is_there(self) -> bool:
        """Whether the table has exactly our chains with exactly our rules."""
        return self._seen() == {chain.name: list(make_comments(chain, self.numbers)) for chain in self._chains}

    def is_gone(self) -> bool:
        return self._seen() is None

    def check(self) -> None:
        """Let the kernel try the table without keeping it. UNSUPPORTED where it lacks something."""
        try:
            self._nft.try_script(make_script(self._chains, self.numbers), what="try NATBox's nft rules")
        except CaasError as exc:
            raise CaasError(Code.UNSUPPORTED, exc.message, hint=exc.hint) from exc

    def make(self) -> None:
        self._nft.change_by_script(make_script(self._chains, self.numbers), what="make NATBox's nft rules")

    def remove(self) -> None:
        """Already gone is success."""
        script = f"table ip {TABLE}\ndelete table ip {TABLE}\n"
        self._nft.change_by_script(script, what="remove NATBox's nft rules")

    def vlan_drops(self) -> dict[int, dict[str, int]]:
        """What the rules dropped of each VID since its entry was made, by reason."""
        found: dict[int, dict[str, int]] = {}
        for name, reason in VLAN_REASONS.items():
            for vid, packets in self._elements(name):
                found.setdefault(vid, {})[reason] = packets
        return found

    def unasked(self) -> int:
        """How many packets came in from the uplink that no connection had asked for."""
        for item in self._nft.list_thing("counter", "ip", TABLE, UNASKED):
            if "counter" in item:
                return int(item["counter"]["packets"])
        return 0

    def forget(self, vid: int) -> None:
        """Begin the VID's drops again at nothing."""
        element = f"{{ {make_inner_subnet(vid).network_address} }}"
        # Deleting what is not there fails: added first, in the same transaction, it always is.
        verbs = ((verb, name) for name in VLAN_REASONS for verb in ("add", "delete"))
        script = "".join(f"{verb} element ip {TABLE} {name} {element}\n" for verb, name in verbs)
        self._nft.change_by_script(script, what=f"forget the drops of VID {vid}")

    def _seen(self) -> dict[str, list[str]] | None:
        # `list table` fetches the sets' elements even when told not to (nft 1.0.6), thousands perhaps.
        found: dict[str, list[str]] = {}
        ours = False
        for item in self._nft.list_ruleset("ip"):
            kind, thing = next(iter(item.items()))
            if kind == "table" and thing["name"] == TABLE:
                ours = True
            elif kind == "chain" and thing["table"] == TABLE:
                found[thing["name"]] = []
            elif kind == "rule" and thing["table"] == TABLE:
                found[thing["chain"]].append(thing.get("comment", ""))
        return found if ours else None

    def _elements(self, name: str) -> list[tuple[int, int]]:
        found = []
        for item in self._nft.list_thing("set", "ip", TABLE, name):
            for element in item.get("set", {}).get("elem", ()):
                each = element["elem"]
                vid = read_inner_vid(ipaddress.IPv4Address(each["val"]))
                found.append((vid, int(each["counter"]["packets"])))
        return found
