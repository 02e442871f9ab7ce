"""What is checked before a link is made or changed: nothing is touched unless all of it holds.

The same rules whatever realisation follows, so that both refuse alike.
"""

from __future__ import annotations

from agent.kernel.links import ARPHRD_ETHER, IFF_LOOPBACK, Links, SeenLink
from agent.kernel.vlan_kernel import others_with_vid
from proto.errors import CaasError, Code, invalid
from proto.model import IPIP_OVERHEAD, KIND_BRIDGE, VXLAN_OVERHEAD, Bridge, Ipip, Vlan, Vxlan


def check_name_free(seen: Links, wanted: Bridge | Vlan | Ipip | Vxlan) -> None:
    """CONFLICT where a link of ours has the name, NOT_OWNED where somebody else's has."""
    taken = seen.by_name.get(wanted.name)
    if taken is None:
        return
    found = f"create {wanted.kind} {wanted.name}: the name is taken by a {taken.kind or 'physical link'}"
    if taken.mark:
        raise CaasError(Code.CONFLICT, f"{found} of {taken.mark}")
    raise CaasError(
        Code.NOT_OWNED, f"{found} that is not ours", hint=f"ip link del {wanted.name}, or choose another name"
    )


def check_parent(seen: Links, wanted: Vlan) -> SeenLink:
    """The parent of *wanted*: there, Ethernet, up, and with room for its MTU."""
    what = f"vlan {wanted.name}"
    parent = seen.by_name.get(wanted.parent)
    if parent is None:
        raise CaasError(
            Code.NOT_FOUND, f"{what}: its parent {wanted.parent} does not exist", hint="ip link shows what there is"
        )
    if parent.arp_type != ARPHRD_ETHER or parent.flags & IFF_LOOPBACK:
        raise CaasError(Code.UNSUPPORTED, f"{what}: its parent {parent.name} is no Ethernet link")
    if not parent.up:
        raise CaasError(Code.FAILED, f"{what}: its parent {parent.name} is down", hint=f"ip link set {parent.name} up")
    if wanted.mtu > parent.mtu:
        raise invalid(f"{what}: MTU {wanted.mtu} is above {parent.mtu}, that of its parent {parent.name}")
    return parent


def check_overhead(wanted: Ipip | Vxlan, underlay: SeenLink) -> None:
    """INVALID where packets of the tunnel's MTU have no room on *underlay* with their outer headers."""
    left = underlay.mtu - (IPIP_OVERHEAD if isinstance(wanted, Ipip) else VXLAN_OVERHEAD)
    if wanted.mtu > left:
        raise invalid(
            f"tunnel {wanted.name}: MTU {wanted.mtu} is above {left}, what is left of {underlay.mtu}, that of "
            f"{underlay.name}"
        )


def check_vid_free(seen: Links, wanted: Vlan, parent: SeenLink, bpf_holder: str) -> None:
    """CONFLICT where another link, anybody's and of either realisation, has the VID on this parent."""
    holders = {*others_with_vid(seen, parent, wanted.vid), bpf_holder} - {"", wanted.name}
    if holders:
        raise CaasError(
            Code.CONFLICT,
            f"vlan {wanted.name}: VID {wanted.vid} on {parent.name} is taken by {', '.join(sorted(holders))}",
        )


def find_master(seen: Links, wanted: Vlan) -> int:
    """The ifindex of the bridge that *wanted* joins, 0 where none is wanted. It has to be ours: joining changes it."""
    if not wanted.master:
        return 0
    master = seen.by_name.get(wanted.master)
    if master is None:
        raise CaasError(Code.NOT_FOUND, f"vlan {wanted.name}: its bridge {wanted.master} does not exist")
    if master.kind != KIND_BRIDGE or not master.mark:
        raise CaasError(Code.NOT_OWNED, f"vlan {wanted.name}: {wanted.master} is not a bridge of ours")
    return master.index
