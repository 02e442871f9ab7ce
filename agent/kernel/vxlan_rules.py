"""nft's part of the vxlan: table `ip caas_vxlan`, there while there is one. It is made as tunnel_rules makes its own.

The kernel hands on whatever inner frame anybody sends to the port with the right VNI. What is taken is decided here, on
the outer packet, before fragments are put together: a datagram whose first fragment was dropped never is.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from agent.kernel.links import VXLAN_PORT, VXLAN_VNI
from agent.kernel.tunnel_rules import (
    Chains,
    chain_of,
    clamp,
    comes_from,
    drop,
    drop_bare,
    make_jumps,
    make_sources,
)
from agent.kernel.tunnel_sources import FRAGMENT, MALFORMED, OPTIONS, OWN_SOURCE, REMOTE, Taken

TABLE = "caas_vxlan"
#: In bits, from the UDP header on (RFC 7348, section 5): flags, VNI, the inner frame's EtherType, the inner packet.
_FLAGS, _VNI, _ETHERTYPE, _INNER = 64, 96, 224, 240
_SADDR = _INNER + 96
#: UDP's, VXLAN's, Ethernet's and the inner packet's header, in bytes.
_SHORTEST = 8 + 8 + 14 + 20
_VALID_VNI = 0x08000000
_ETH_P_IP = 0x0800


def make_chains(taken: Taken, *, name: str) -> Chains:
    """The rules for the vxlan *name*."""
    names = f'"{name}"'
    return {
        "arrive": (
            # Forwarded ones are others'; later fragments have no port.
            f"ip frag-off & 0x1fff == 0 udp dport {VXLAN_PORT} fib daddr type != unicast goto outer",
            *drop_bare(taken, names),
        ),
        # No vxlan takes a packet without a valid VNI: by those it is tried who can be reached (agent.kernel.passage).
        "outer": (f"@th,{_FLAGS},8 0 accept", *make_jumps(list(taken.sources)), drop(REMOTE)),
        "header": tuple(_header(taken.own)),
        **{chain_of(ends): ("jump header", *make_sources(sources, _SADDR)) for ends, sources in taken.sources.items()},
        "onward": tuple(clamp(names)),
    }


def _header(own: Iterable[IPv4Network]) -> Iterable[str]:
    """What every outer header, and the inner ones that follow it, have to be like."""
    yield f"ip hdrlength != 5 {drop(OPTIONS)}"
    yield f"ip frag-off & 0x3fff != 0 {drop(FRAGMENT)}"
    yield f"udp length < {_SHORTEST} {drop(MALFORMED)}"
    yield f"@th,{_FLAGS},32 != {_VALID_VNI:#x} {drop(MALFORMED)}"
    yield f"@th,{_VNI},24 != {VXLAN_VNI:#x} {drop(MALFORMED)}"
    yield f"@th,{_ETHERTYPE},16 != {_ETH_P_IP:#x} {drop(MALFORMED)}"
    yield f"@th,{_INNER},4 != 4 {drop(MALFORMED)}"
    yield f"@th,{_INNER + 4},4 < 5 {drop(MALFORMED)}"
    # Congestion on the way of a packet whose ends know nothing of it (RFC 6040, figure 4).
    yield f"ip ecn ce @th,{_INNER + 14},2 0 {drop(MALFORMED)}"
    for network in own:
        yield f"{comes_from(network, _SADDR)}{drop(OWN_SOURCE)}"
