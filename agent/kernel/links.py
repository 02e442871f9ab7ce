"""Links: what one dump shows of them, and the requests that make, set and delete them (ip-link(8), linux/if_link.h).

A link is made with an ifindex that we choose: the requests that follow in the same datagram (its mark first) name it
by that number, so no crash leaves a link of ours unmarked, and a refused creation marks nobody else's link.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from pyroute2.netlink.rtnl import RTM_GETLINK

from agent.kernel.netlink import DUMP, GET, KernelError, Message, Netlink, Request, read_attributes
from proto.marks import Mark, parse_mark

RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_PROMISC = 0x1, 0x8, 0x80, 0x100
ARPHRD_ETHER = 1
ETH_P_8021Q = 0x8100
IPPROTO_IPIP = 4
TUNNEL_TTL = 64
#: VXLAN's own port (RFC 7348, section 5), and the one segment of all clusters: inner addresses tell them apart.
VXLAN_PORT, VXLAN_VNI = 4789, 0xCA5
#: Far above what the kernel hands out itself, so that two makers never meet.
IFINDEX_MIN, IFINDEX_SPAN = 1 << 20, 1 << 24


@dataclass(frozen=True, slots=True)
class Ends:
    """Of an ipip device: our address and the far end's (None: that of each packet's route).

    Of a vxlan that is not as ours are, our address is 0.0.0.0.
    """

    local: IPv4Address
    remote: IPv4Address | None


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link as a dump shows it. `link` is the ifindex of its parent or peer (0: none, or in another namespace)."""

    index: int
    name: str
    kind: str
    mtu: int
    flags: int
    alias: str
    master: int
    link: int
    vid: int
    vlan_protocol: int
    mac: bytes
    arp_type: int
    ends: Ends | None = None

    @property
    def mark(self) -> Mark | None:
        return parse_mark(self.alias)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Links:
    """Every link of a namespace at one moment, by name and by ifindex."""

    def __init__(self, seen: Sequence[SeenLink]) -> None:
        self.by_name = {each.name: each for each in seen}
        self.by_index = {each.index: each for each in seen}

    def __iter__(self) -> Iterator[SeenLink]:
        return iter(self.by_name.values())


def list_links(connection: Netlink) -> Links:
    """All links, from one dump. Raises KernelError."""
    return Links(
        connection.dump(lambda route: route.link((RTM_GETLINK, DUMP), ext_mask=RTEXT_FILTER_SKIP_STATS), _seen_link)
    )


def find_link(connection: Netlink, name: str) -> SeenLink | None:
    """The link called *name*, or None: one request, whatever the number of links."""
    try:
        (message,) = connection.ask(lambda route: route.link((RTM_GETLINK, GET), ifname=name))
    except KernelError as exc:
        if exc.errno == errno.ENODEV:
            return None
        raise
    return _seen_link(message)


def find_links(connection: Netlink, *names: str) -> Links:
    """Those of *names* that are there: one request for each, whatever the number of links."""
    return Links([link for name in names if (link := find_link(connection, name)) is not None])


def make_ifindex() -> int:
    """A random ifindex that no link has, as good as surely."""
    return IFINDEX_MIN + secrets.randbelow(IFINDEX_SPAN)


def new_bridge(index: int, name: str, mtu: int) -> Request:
    """A bridge without spanning tree and without snooping, whose querier and joins would speak in the segment.

    Its MTU here is one less than wanted: only a change makes the kernel keep it when ports join
    (BROPT_MTU_SET_BY_USER in net/bridge). Its MAC is its own, so that it does not change with its ports either.
    """
    mac = bytes(((secrets.randbelow(64) << 2) | 2,)) + secrets.token_bytes(5)
    return lambda route: route.link(
        "add",
        kind="bridge",
        index=index,
        ifname=name,
        address=mac.hex(":"),
        mtu=mtu - 1,
        br_stp_state=0,
        br_mcast_snooping=0,
    )


def new_vlan(index: int, name: str, *, parent: int, vid: int, mtu: int) -> Request:
    """An 802.1Q subinterface of the link with ifindex *parent*."""
    return lambda route: route.link(
        "add", kind="vlan", index=index, ifname=name, link=parent, mtu=mtu, vlan_id=vid, vlan_protocol=ETH_P_8021Q
    )


def new_veth(index: int, name: str, *, peer_index: int, peer_name: str, mtu: int, mac: bytes) -> Request:
    """A veth pair; *mac* is that of the end called *name*."""
    # Spelled out: pyroute2's own `peer` has no place for the ifindex, which is in the header.
    peer = {"index": peer_index, "attrs": [("IFLA_IFNAME", peer_name), ("IFLA_MTU", mtu)]}
    info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]})]}
    return lambda route: route.link("add", index=index, ifname=name, address=mac.hex(":"), mtu=mtu, linkinfo=info)


def new_ipip(index: int, name: str, ends: Ends, *, mtu: int) -> Request:
    """An IPv4-in-IPv4 device. Its outer headers forbid fragments, so that a way that is too narrow is told."""
    return lambda route: route.link("add", index=index, ifname=name, mtu=mtu, linkinfo=_ipip_info(ends))


def change_ipip(index: int, ends: Ends) -> Request:
    """Other ends for an ipip device. It cannot get a remote where it has none, nor lose it."""
    return lambda route: route.link("set", index=index, linkinfo=_ipip_info(ends))


def _ipip_info(ends: Ends) -> dict[str, object]:
    far = ("IFLA_IPIP_REMOTE", str(ends.remote)) if ends.remote else ("IFLA_IPIP_COLLECT_METADATA", True)
    data = [
        ("IFLA_IPIP_LOCAL", str(ends.local)),
        far,
        ("IFLA_IPIP_TTL", TUNNEL_TTL),
        ("IFLA_IPIP_PMTUDISC", 1),
        ("IFLA_IPIP_PROTO", IPPROTO_IPIP),
    ]
    return {"attrs": [("IFLA_INFO_KIND", "ipip"), ("IFLA_INFO_DATA", {"attrs": data})]}


def new_vxlan(index: int, name: str, local: IPv4Address, *, mtu: int, mac: bytes) -> Request:
    """A vxlan that learns nothing, and sends only where an entry says. Its outer headers forbid fragments.

    None that collects metadata: that would listen on IPv6, too.
    """
    data = [
        ("IFLA_VXLAN_ID", VXLAN_VNI),
        ("IFLA_VXLAN_LOCAL", str(local)),
        ("IFLA_VXLAN_TTL", TUNNEL_TTL),
        ("IFLA_VXLAN_LEARNING", 0),
        ("IFLA_VXLAN_PORT", VXLAN_PORT),
        ("IFLA_VXLAN_DF", 1),
    ]
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}
    return lambda route: route.link("add", index=index, ifname=name, mtu=mtu, address=mac.hex(":"), linkinfo=info)


def change_vxlan(index: int, local: IPv4Address) -> Request:
    """Another address of ours for a vxlan."""
    data = {"attrs": [("IFLA_VXLAN_LOCAL", str(local))]}
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", data)]}
    return lambda route: route.link("set", index=index, linkinfo=info)


def set_link(
    index: int,
    *,
    mark: Mark | None = None,
    mtu: int | None = None,
    master: int | None = None,
    mac: bytes | None = None,
    flags: int = 0,
    flags_off: int = 0,
) -> Request:
    """Change what is given of the link; master 0 takes it out of its bridge. *flags* are set, *flags_off* cleared."""
    return lambda route: route.link(
        "set",
        index=index,
        flags=flags,
        change=flags | flags_off,
        # What is None is left out of the message.
        ifalias=str(mark) if mark is not None else None,
        mtu=mtu,
        master=master,
        address=mac.hex(":") if mac is not None else None,
    )


def perform(connection: Netlink, requests: Sequence[Request]) -> None:
    """Send *requests* in one datagram. Raises the first KernelError."""
    connection.change_together(requests)


def delete_link(connection: Netlink, index: int) -> bool:
    """Delete the link. False where it was gone."""
    try:
        connection.change(lambda route: route.link("del", index=index))
    except KernelError as exc:
        if exc.errno == errno.ENODEV:
            return False
        raise
    return True


def _seen_link(message: Message) -> SeenLink:
    found = read_attributes(message)
    info = read_attributes(found["IFLA_LINKINFO"].value) if "IFLA_LINKINFO" in found else {}
    kind = info["IFLA_INFO_KIND"].value if "IFLA_INFO_KIND" in info else ""
    data = info["IFLA_INFO_DATA"].value if kind == "vlan" else None
    alias = found["IFLA_IFALIAS"].value if "IFLA_IFALIAS" in found else ""
    # pyroute2 reads every address as six bytes, whatever its length.
    is_ethernet = message["ifi_type"] == ARPHRD_ETHER and "IFLA_ADDRESS" in found
    # With IFLA_LINK_NETNSID the number is one of another namespace.
    has_link = "IFLA_LINK" in found and "IFLA_LINK_NETNSID" not in found
    return SeenLink(
        index=message["index"],
        name=found["IFLA_IFNAME"].value,
        kind=kind,
        mtu=found["IFLA_MTU"].value,
        flags=message["flags"],
        alias=alias if isinstance(alias, str) else "",  # bytes: somebody else's, and no text
        master=found["IFLA_MASTER"].value if "IFLA_MASTER" in found else 0,
        link=found["IFLA_LINK"].value if has_link else 0,
        vid=data.get_attr("IFLA_VLAN_ID") if data else 0,
        vlan_protocol=data.get_attr("IFLA_VLAN_PROTOCOL") if data else 0,
        mac=bytes.fromhex(found["IFLA_ADDRESS"].value.replace(":", "")) if is_ethernet else b"",
        arp_type=message["ifi_type"],
        ends=_ENDS[kind](info["IFLA_INFO_DATA"].value) if kind in _ENDS else None,
    )


def _ends(data: Message) -> Ends:
    remote = IPv4Address(data.get_attr("IFLA_IPIP_REMOTE") or 0)
    collects = data.get_attr("IFLA_IPIP_COLLECT_METADATA") is not None
    return Ends(IPv4Address(data.get_attr("IFLA_IPIP_LOCAL") or 0), None if collects else remote)


def _vxlan_ends(data: Message) -> Ends:
    shape = {name: data.get_attr(f"IFLA_VXLAN_{name}") for name in ("ID", "PORT", "LEARNING", "COLLECT_METADATA")}
    is_ours = tuple(map(int, shape.values())) == (VXLAN_VNI, VXLAN_PORT, 0, 0)
    return Ends(IPv4Address((is_ours and data.get_attr("IFLA_VXLAN_LOCAL")) or 0), None)


_ENDS = {"ipip": _ends, "vxlan": _vxlan_ends}
