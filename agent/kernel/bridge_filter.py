"""Whether the host's own packet filter would drop what crosses a bridge: a lack, as the filter is not ours to change.

With br_netfilter (Docker and Kubernetes load it) bridged IPv4 passes the forward hook like routed IPv4, whatever the
bridge says: the setting is one for all bridges of a namespace.
"""

from __future__ import annotations

from pathlib import Path

from agent.core.doors import Lack
from agent.kernel.inside import run_inside
from agent.kernel.nft import Nft

SWITCH = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def find_bridge_lacks(nft: Nft, *, netns: str | None) -> list[Lack]:
    """One for each nft chain at the forward hook that drops what it does not know."""
    if not run_inside(netns, _is_on):
        return []
    chains = [each["chain"] for each in nft.list_chains() if "chain" in each]
    return [
        Lack(
            what=f"frames between ports of a bridge pass nft chain {chain['family']} {chain['table']} {chain['name']}, "
            "which drops what it does not know",
            mend="sysctl -w net.bridge.bridge-nf-call-iptables=0, or accept `iifname lxcbr*` there",
        )
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in ("ip", "inet")
    ]


def _is_on() -> bool:
    return SWITCH.exists() and SWITCH.read_text().strip() == "1"
