"""NATBox's nftables: one table, as many rules for 4,094 VLANs as for one. Adding a VLAN writes nothing here.

A rule's comment ends in a digest of its text, so that a table that was cut, extended or made by another version is
told from a whole one without comparing nft's own spelling of rules.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.kernel.inside import run_inside
from agent.kernel.natbox_layout import MARK_FLAGS, MARK_IN, MARK_OUT
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.marks import HOST, Mark
from proto.model.network import VID_MAX, VID_MIN

TABLE = "caas_natbox"
TIMEOUT = 20.0
#: Drops that only the kernel's stack can see, by the name of the set (per VID) or counter that keeps them.
VLAN_REASONS = {"to_natbox": "to NATBox's own address", "astray": "not to the uplink"}
UNASKED = "unasked"
UNASKED_REASON = "nobody asked for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: its name, where it hooks in, and its rules in order."""

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """The daemon's own address and TCP port: open on the uplink where that is its link."""

    address: ipaddress.IPv4Address
    port: int


def make_chains(*, trunk: str, uplink: str, listen: Listen | None) -> tuple[Chain, ...]:
    """The rules for these two links.

    The zone keeps VLANs with the same addresses apart, from before fragments are put together (priority -400:
    two VLANs' fragments must not meet) to the connection's end; only the original direction has one, so what
    comes back to the uplink's address finds its connection, and the connection's mark its owner.
    """
    came_out, comes_in = f"meta mark & {MARK_FLAGS:#x} == {MARK_OUT:#x}", f"meta mark & {MARK_FLAGS:#x} == {MARK_IN:#x}"
    clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    service = (
        (f'iifname "{uplink}" ip daddr {listen.address} tcp dport {listen.port} accept',) if listen is not None else ()
    )
    return (
        Chain(
            name="zone",
            hook="type filter hook prerouting priority -450",
            rules=(f'iifname "{trunk}" ct original zone set meta mark map @zones',),
        ),
        Chain(
            name="owner",
            hook="type filter hook prerouting priority -150",
            rules=(
                f'iifname "{trunk}" ct state new ct mark set meta mark',
                f'iifname "{uplink}" ct mark & {MARK_FLAGS:#x} == {MARK_OUT:#x} '
                f"meta mark set ct mark | {MARK_OUT ^ MARK_IN:#x}",
            ),
        ),
        Chain(
            name="own",
            hook="type filter hook input priority -10",
            rules=(
                f'iifname "{trunk}" update @to_natbox {{ meta mark }}',
                f'iifname "{trunk}" drop',
                f'iifname "{uplink}" ct state established,related accept',
                f'iifname "{uplink}" icmp type echo-request accept',
                *service,
                f'iifname "{uplink}" counter name {UNASKED} drop',
            ),
        ),
        Chain(
            name="pass",
            hook="type filter hook forward priority -10",
            rules=(
                f'iifname {{ "{trunk}", "{uplink}" }} oifname {{ "{trunk}", "{uplink}" }} {clamp}',
                f'iifname "{trunk}" oifname "{uplink}" {came_out} ct state new,established,related accept',
                f'iifname "{trunk}" update @astray {{ meta mark }}',
                f'iifname "{trunk}" drop',
                f'iifname "{uplink}" oifname "{trunk}" {comes_in} ct state established,related accept',
                f'iifname "{uplink}" counter name {UNASKED} drop',
                f'oifname "{trunk}" drop',
            ),
        ),
        Chain(
            name="say",
            hook="type filter hook output priority -10",
            rules=(f'oifname "{trunk}" {came_out} meta l4proto icmp accept', f'oifname "{trunk}" drop'),
        ),
        Chain(
            name="translate",
            hook="type nat hook postrouting priority 100",
            rules=(f'oifname "{uplink}" {came_out} masquerade fully-random',),
        ),
    )


def make_comments(chain: Chain) -> tuple[str, ...]:
    """The comments of *chain*'s rules, in order."""
    digests = (hashlib.sha256(f"{chain.hook}\0{rule}".encode()).hexdigest()[:12] for rule in chain.rules)
    return tuple(str(Mark(HOST, f"natbox-{chain.name}-{digest}")) for digest in digests)


def make_script(chains: tuple[Chain, ...]) -> str:
    """Input for `nft -f`: the table as wanted, in place of what there is, in one transaction."""
    zones = ", ".join(f"{MARK_OUT | vid:#x} : {vid}" for vid in range(VID_MIN, VID_MAX + 1))
    lines = [f"table ip {TABLE}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
    lines.append(f" map zones {{ typeof meta mark : ct original zone; elements = {{ {zones} }}; }}")
    lines += [f" set {name} {{ type mark; size 8192; flags dynamic; counter; }}" for name in VLAN_REASONS]
    lines.append(f" counter {UNASKED} {{ }}")
    for chain in chains:
        lines += [f" chain {chain.name} {{", f"  {chain.hook}; policy accept;"]
        lines += [
            f'  {rule} comment "{comment}"' for rule, comment in zip(chain.rules, make_comments(chain), strict=True)
        ]
        lines.append(" }")
    return "\n".join([*lines, "}", ""])


class NatboxRules:
    """The table in the namespace *netns* (None: the caller's)."""

    title = "nft rules"

    def __init__(self, chains: tuple[Chain, ...], *, netns: str | None, tally: Tally) -> None:
        self._chains = chains
        self._netns = netns
        self._tally = tally

    def is_there(self) -> bool:
        """Whether the table has exactly our chains with exactly our rules."""
        return self._seen() == {chain.name: list(make_comments(chain)) for chain in self._chains}

    def is_gone(self) -> bool:
        return self._seen() is None

    def check(self) -> None:
        """Let the kernel try the table without keeping it. UNSUPPORTED where it lacks something."""
        arguments = ["-c", "-f", "-"]
        done = self._run(arguments, make_script(self._chains))
        if done.returncode:
            raise CaasError(Code.UNSUPPORTED, _failed(arguments, done).message)

    def make(self) -> None:
        self._tally.add()
        self._nft("-f", "-", script=make_script(self._chains))

    def remove(self) -> None:
        """Already gone is success."""
        self._tally.add()
        self._nft("-f", "-", script=f"table ip {TABLE}\ndelete table ip {TABLE}\n")

    def vlan_drops(self) -> dict[int, dict[str, int]]:
        """What the rules dropped of each VID since its entry was made, by reason."""
        found: dict[int, dict[str, int]] = {}
        for name, reason in VLAN_REASONS.items():
            for mark, packets in self._elements(name):
                found.setdefault(mark & ~MARK_FLAGS, {})[reason] = packets
        return found

    def unasked(self) -> int:
        """How many packets came in from the uplink that no connection had asked for."""
        for item in self._list("counter", name=UNASKED):
            if "counter" in item:
                return int(item["counter"]["packets"])
        return 0

    def forget(self, vid: int) -> None:
        """Begin the VID's drops again at nothing."""
        lines = []
        for name in VLAN_REASONS:
            if any(mark & ~MARK_FLAGS == vid for mark, _ in self._elements(name)):
                lines.append(f"delete element ip {TABLE} {name} {{ {MARK_OUT | vid:#x} }}\n")
        if lines:
            self._tally.add()
            self._nft("-f", "-", script="".join(lines))

    def _seen(self) -> dict[str, list[str]] | None:
        # `list table` fetches the map's 4,094 elements even when told not to (nft 1.0.6): 17 ms instead of 4.
        found: dict[str, list[str]] = {}
        ours = False
        for item in self._list("ruleset", "-t"):
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
        for item in self._list("set", name=name):
            for element in item.get("set", {}).get("elem", ()):
                each = element["elem"]
                found.append((int(each["val"]), int(each["counter"]["packets"])))
        return found

    def _list(self, kind: str, *options: str, name: str = "") -> list[Mapping[str, dict[str, Any]]]:
        arguments = ["-j", *options, "list", kind, "ip", *([TABLE, name] if name else [])]
        done = self._run(arguments, "")
        if done.returncode:
            if "No such file or directory" in done.stderr:
                return []
            raise _failed(arguments, done)
        return list(json.loads(done.stdout)["nftables"])

    def _nft(self, *arguments: str, script: str) -> None:
        done = self._run(list(arguments), script)
        if done.returncode:
            raise _failed(list(arguments), done)

    def _run(self, arguments: list[str], script: str) -> subprocess.CompletedProcess[str]:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["nft", *arguments], input=script, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )

        try:
            return run_inside(self._netns, run)
        except FileNotFoundError as exc:
            raise CaasError(Code.UNSUPPORTED, "nft is not there", hint="apt-get install nftables") from exc
        except subprocess.TimeoutExpired as exc:
            raise CaasError(Code.TIMEOUT, f"nft {' '.join(arguments)}: no end after {TIMEOUT:.0f} s") from exc


def _failed(arguments: list[str], done: subprocess.CompletedProcess[str]) -> CaasError:
    said = (done.stderr.strip() or "no word").splitlines()
    return CaasError(Code.FAILED, f"nft {' '.join(arguments)} ended with {done.returncode}: {'; '.join(said[:3])}")
