"""Links: what one dump shows of them, and the messages that make, set and delete them (rtnetlink(7), linux/if_link.h).

A link is made with an ifindex that we choose: the requests that follow in the same datagram (its mark first) name it
by that number, so no crash leaves a link of ours unmarked, and a refused creation marks nobody else's link.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.kernel import netlink
from agent.kernel.netlink import KernelError, Netlink
from proto.marks import Mark, parse_mark

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 18, 20, 27, 29, 37
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_VLAN_ID, IFLA_VLAN_PROTOCOL = 1, 5
IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE, IFLA_IPTUN_TTL, IFLA_IPTUN_PROTO = 2, 3, 4, 9
IFLA_IPTUN_PMTUDISC, IFLA_IPTUN_COLLECT_METADATA = 10, 19
IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 5, 23
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_PROMISC = 0x1, 0x8, 0x80, 0x100
ARPHRD_ETHER = 1
ETH_P_8021Q = 0x8100
IPPROTO_IPIP = 4
TUNNEL_TTL = 64
#: Far above what the kernel hands out itself, so that two makers never meet.
IFINDEX_MIN, IFINDEX_SPAN = 1 << 20, 1 << 24

_IFINFO = struct.Struct("=BxHiII")
Request = tuple[int, int, bytes]


@dataclass(frozen=True, slots=True)
class Ends:
    """Of an ipip device: our address and the far end's (None: that of each packet's route)."""

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
    body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Links([_seen_link(payload) for payload in connection.dump(RTM_GETLINK, body)])


def find_link(connection: Netlink, name: str) -> SeenLink | None:
    """The link called *name*, or None: one request, whatever the number of links."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.attr_text(IFLA_IFNAME, name)
    try:
        payloads = connection.ask(RTM_GETLINK, body)
    except KernelError as exc:
        if exc.errno == errno.ENODEV:
            return None
        raise
    return _seen_link(payloads[0]) if payloads else None


def make_ifindex() -> int:
    """A random ifindex that no link has, as good as surely."""
    return IFINDEX_MIN + secrets.randbelow(IFINDEX_SPAN)


def new_bridge(index: int, name: str, mtu: int) -> Request:
    """A bridge without spanning tree and without snooping, whose querier and joins would speak in the segment.

    Its MTU here is one less than wanted: only a change makes the kernel keep it when ports join
    (BROPT_MTU_SET_BY_USER in net/bridge). Its MAC is its own, so that it does not change with its ports either.
    """
    mac = bytes(((secrets.randbelow(64) << 2) | 2,)) + secrets.token_bytes(5)
    data = (netlink.attr_u32(IFLA_BR_STP_STATE, 0), netlink.attr_u8(IFLA_BR_MCAST_SNOOPING, 0))
    own = (netlink.attr(IFLA_ADDRESS, mac), netlink.attr_u32(IFLA_MTU, mtu - 1))
    return _new_link(index, name, "bridge", *own, data=data)


def new_vlan(index: int, name: str, *, parent: int, vid: int, mtu: int) -> Request:
    """An 802.1Q subinterface of the link with ifindex *parent*."""
    data = (
        netlink.attr_u16(IFLA_VLAN_ID, vid),
        netlink.attr(IFLA_VLAN_PROTOCOL, struct.pack("!H", ETH_P_8021Q)),
    )
    return _new_link(
        index, name, "vlan", netlink.attr_u32(IFLA_LINK, parent), netlink.attr_u32(IFLA_MTU, mtu), data=data
    )


def new_veth(index: int, name: str, *, peer_index: int, peer_name: str, mtu: int, mac: bytes) -> Request:
    """A veth pair; *mac* is that of the end called *name*."""
    peer = (
        _IFINFO.pack(0, 0, peer_index, 0, 0)
        + netlink.attr_text(IFLA_IFNAME, peer_name)
        + netlink.attr_u32(IFLA_MTU, mtu)
    )
    own = (netlink.attr(IFLA_ADDRESS, mac), netlink.attr_u32(IFLA_MTU, mtu))
    return _new_link(index, name, "veth", *own, data=(netlink.attr(VETH_INFO_PEER | netlink.NLA_F_NESTED, peer),))


def new_ipip(index: int, name: str, ends: Ends, *, mtu: int) -> Request:
    """An IPv4-in-IPv4 device. Its outer headers forbid fragments, so that a way that is too narrow is told."""
    return _new_link(index, name, "ipip", netlink.attr_u32(IFLA_MTU, mtu), data=_ipip_data(ends))


def change_ipip(index: int, ends: Ends) -> Request:
    """Other ends for an ipip device. It cannot get a remote where it has none, nor lose it."""
    info = netlink.nested(
        IFLA_LINKINFO, netlink.attr_text(IFLA_INFO_KIND, "ipip"), netlink.nested(IFLA_INFO_DATA, *_ipip_data(ends))
    )
    return RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + info


def _ipip_data(ends: Ends) -> Sequence[bytes]:
    far = (
        netlink.attr(IFLA_IPTUN_REMOTE, ends.remote.packed)
        if ends.remote is not None
        else netlink.attr(IFLA_IPTUN_COLLECT_METADATA, b"")
    )
    return (
        netlink.attr(IFLA_IPTUN_LOCAL, ends.local.packed),
        far,
        netlink.attr_u8(IFLA_IPTUN_TTL, TUNNEL_TTL),
        netlink.attr_u8(IFLA_IPTUN_PMTUDISC, 1),
        netlink.attr_u8(IFLA_IPTUN_PROTO, IPPROTO_IPIP),
    )


def set_link(
    index: int,
    *,
    mark: Mark | None = None,
    mtu: int | None = None,
    master: int | None = None,
    mac: bytes | None = None,
    group: int | None = None,
    flags: int = 0,
    flags_off: int = 0,
) -> Request:
    """Change what is given of the link; master 0 takes it out of its bridge. *flags* are set, *flags_off* cleared."""
    body = _IFINFO.pack(0, 0, index, flags, flags | flags_off)
    if mark is not None:
        body += netlink.attr(IFLA_IFALIAS, str(mark).encode())
    if mtu is not None:
        body += netlink.attr_u32(IFLA_MTU, mtu)
    if master is not None:
        body += netlink.attr_u32(IFLA_MASTER, master)
    if mac is not None:
        body += netlink.attr(IFLA_ADDRESS, mac)
    if group is not None:
        body += netlink.attr_u32(IFLA_GROUP, group)
    return RTM_SETLINK, 0, body


def perform(connection: Netlink, requests: Sequence[Request]) -> None:
    """Send *requests* in one datagram. Raises the first KernelError."""
    for refusal in connection.change_all(requests):
        if refusal is not None:
            raise refusal


def delete_link(connection: Netlink, index: int) -> bool:
    """Delete the link. False where it was gone."""
    try:
        connection.change(RTM_DELLINK, _IFINFO.pack(0, 0, index, 0, 0))
    except KernelError as exc:
        if exc.errno == errno.ENODEV:
            return False
        raise
    return True


def delete_links(connection: Netlink, indexes: Sequence[int]) -> None:
    """Delete links as a group: one wait for RCU instead of one for each (facts.md: 60 times as fast)."""
    if len(indexes) < 2:
        for index in indexes:
            delete_link(connection, index)
        return
    group = make_ifindex()
    for refusal in connection.change_all([set_link(index, group=group) for index in indexes]):
        if refusal is not None and refusal.errno != errno.ENODEV:
            raise refusal
    body = _IFINFO.pack(0, 0, 0, 0, 0) + netlink.attr_u32(IFLA_GROUP, group)
    with contextlib.suppress(KernelError):  # ENODEV: all of them are gone by themselves
        connection.change(RTM_DELLINK, body)


def _new_link(index: int, name: str, kind: str, *attributes: bytes, data: Sequence[bytes]) -> Request:
    info = netlink.nested(IFLA_LINKINFO, netlink.attr_text(IFLA_INFO_KIND, kind), netlink.nested(IFLA_INFO_DATA, *data))
    body = _IFINFO.pack(0, 0, index, 0, 0) + netlink.attr_text(IFLA_IFNAME, name) + b"".join(attributes) + info
    return RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body


def _seen_link(payload: bytes) -> SeenLink:
    _, arp_type, index, flags, _ = _IFINFO.unpack_from(payload)
    found = netlink.parse_attrs(payload, _IFINFO.size)
    info = netlink.parse_attrs(found.get(IFLA_LINKINFO, b""))
    kind = netlink.text_of(info.get(IFLA_INFO_KIND))
    vid = protocol = 0
    if kind == "vlan":
        data = netlink.parse_attrs(info.get(IFLA_INFO_DATA, b""))
        vid = struct.unpack("=H", data[IFLA_VLAN_ID])[0]
        protocol = struct.unpack("!H", data[IFLA_VLAN_PROTOCOL])[0]
    ends = None
    if kind == "ipip":
        data = netlink.parse_attrs(info.get(IFLA_INFO_DATA, b""))
        remote = IPv4Address(data.get(IFLA_IPTUN_REMOTE, b"\0" * 4))
        local = IPv4Address(data.get(IFLA_IPTUN_LOCAL, b"\0" * 4))
        ends = Ends(local, None if IFLA_IPTUN_COLLECT_METADATA in data else remote)
    return SeenLink(
        index=index,
        name=netlink.text_of(found.get(IFLA_IFNAME)),
        kind=kind,
        mtu=netlink.u32_of(found.get(IFLA_MTU)),
        flags=flags,
        alias=netlink.text_of(found.get(IFLA_IFALIAS)),
        master=netlink.u32_of(found.get(IFLA_MASTER)),
        # With IFLA_LINK_NETNSID the number is one of another namespace.
        link=0 if IFLA_LINK_NETNSID in found else netlink.u32_of(found.get(IFLA_LINK)),
        vid=vid,
        vlan_protocol=protocol,
        mac=found.get(IFLA_ADDRESS, b""),
        arp_type=arp_type,
        ends=ends,
    )
