"""Whether somebody filters what this host forwards: nft's chains that are not ours, and those of the old iptables."""

from __future__ import annotations

from pathlib import Path

from agent.kernel.inside import run_inside
from agent.kernel.nft import Nft

#: nft does not show what iptables-legacy has.
_OLD_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_HOOKS = frozenset({"prerouting", "forward", "postrouting", "ingress", "egress"})


def has_forward_filter(nft: Nft) -> bool:
    """True where any packet that is forwarded could meet another's chain."""
    chains = (each["chain"] for each in nft.list_chains() if "chain" in each)
    if any(chain.get("hook") in _HOOKS and not chain["table"].startswith("caas") for chain in chains):
        return True
    return run_inside(nft.netns, lambda: _OLD_TABLES.exists() and bool(_OLD_TABLES.read_text().strip()))
