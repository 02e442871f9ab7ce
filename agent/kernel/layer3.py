"""IPv4 addresses, routes and policy rules: dumps and messages (rtnetlink(7), linux/fib_rules.h).

Ours are routes and rules by their protocol number, and addresses by theirs (IFA_PROTO, Linux 5.18) or because they
stand on a link of ours.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.kernel import netlink
from agent.kernel.links import TUNNEL_TTL, Links
from agent.kernel.netlink import KernelError, Netlink
from proto.marks import ROUTE_PROTOCOL
from proto.model import Address, Route, Rule

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_PROTO = 1, 2, 4, 11
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_TABLE = 1, 2, 4, 5, 7, 15
RTA_ENCAP_TYPE, RTA_ENCAP = 21, 22
LWTUNNEL_ENCAP_IP = 2
LWTUNNEL_IP_DST, LWTUNNEL_IP_SRC, LWTUNNEL_IP_TTL, LWTUNNEL_IP_FLAGS = 2, 3, 4, 6
TUNNEL_DONT_FRAGMENT = 0x0100  # linux/if_tunnel.h
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 1, 2, 6, 15, 21
FR_ACT_TO_TBL = 1
RTN_UNICAST = 1
RT_TABLE_MAIN = 254
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
TABLE_COMPAT = 252  # what a header says where RTA_TABLE holds the number
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address with the number of who set it (IFA_PROTO; 0 where nobody said)."""

    thing: Address
    protocol: int


def list_addresses(connection: Netlink, links: Links) -> list[SeenAddress]:
    """All IPv4 addresses on *links*. Raises KernelError."""
    seen = []
    for payload in connection.dump(RTM_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, prefix, _, _, index = _IFADDR.unpack_from(payload)
        found = netlink.parse_attrs(payload, _IFADDR.size)
        raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
        if raw and index in links.by_index:
            interface = ipaddress.IPv4Interface((raw, prefix))
            thing = Address(link=links.by_index[index].name, address=interface)
            seen.append(SeenAddress(thing, (found.get(IFA_PROTO) or b"\0")[0]))
    return seen


def list_routes(connection: Netlink, links: Links) -> list[Route]:
    """Our IPv4 routes through *links*. The kernel picks them out by protocol number. Raises KernelError."""
    routes = []
    header = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
    for payload in connection.dump(RTM_GETROUTE, header):
        _, dst_len, _, _, table, protocol, _, _, _ = _RTMSG.unpack_from(payload)
        found = netlink.parse_attrs(payload, _RTMSG.size)
        index = netlink.u32_of(found.get(RTA_OIF))
        if protocol != ROUTE_PROTOCOL or index not in links.by_index:
            continue
        routes.append(
            Route(
                dst=_network(found.get(RTA_DST), dst_len) or ipaddress.IPv4Network("0.0.0.0/0"),
                dev=links.by_index[index].name,
                via=_address(found.get(RTA_GATEWAY)),
                src=_address(found.get(RTA_PREFSRC)),
                table=netlink.u32_of(found.get(RTA_TABLE)) or table,
                encap=_encap(found),
            )
        )
    return routes


def list_foreign_destinations(connection: Netlink) -> list[ipaddress.IPv4Network]:
    """Destinations of the main table's unicast routes that are not ours, without the default. Raises KernelError."""
    found = set()
    header = _RTMSG.pack(socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    for payload in connection.dump(RTM_GETROUTE, header):
        _, dst_len, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(payload)
        if table != RT_TABLE_MAIN or protocol == ROUTE_PROTOCOL or kind != RTN_UNICAST:
            continue
        network = _network(netlink.parse_attrs(payload, _RTMSG.size).get(RTA_DST), dst_len)
        if network is not None:
            found.add(network)
    return sorted(found)


def find_out_link(connection: Netlink, remote: ipaddress.IPv4Address, *, src: ipaddress.IPv4Address) -> int:
    """The ifindex of the link by which packets from *src*, an address of the host's, go to *remote*; 0 where none."""
    header = _RTMSG.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0)
    body = header + netlink.attr(RTA_DST, remote.packed) + netlink.attr(RTA_SRC, src.packed)
    try:
        (payload,) = connection.ask(RTM_GETROUTE, body)
    except KernelError as exc:
        if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
            return 0  # no way there, or *src* is no address of the host's
        raise
    return netlink.u32_of(netlink.parse_attrs(payload, _RTMSG.size).get(RTA_OIF))


def list_rules(connection: Netlink) -> list[Rule]:
    """Our IPv4 policy rules. Raises KernelError."""
    rules = []
    for payload in connection.dump(RTM_GETRULE, _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, dst_len, src_len, _, table, _, _, _, _ = _RTMSG.unpack_from(payload)
        found = netlink.parse_attrs(payload, _RTMSG.size)
        if (found.get(FRA_PROTOCOL) or b"\0")[0] == ROUTE_PROTOCOL:
            rules.append(
                Rule(
                    priority=netlink.u32_of(found.get(FRA_PRIORITY)),
                    src=_network(found.get(FRA_SRC), src_len),
                    dst=_network(found.get(FRA_DST), dst_len),
                    table=netlink.u32_of(found.get(FRA_TABLE)) or table,
                )
            )
    return rules


def add_address(connection: Netlink, address: Address, index: int) -> None:
    """Raises KernelError: EEXIST where it is there."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    connection.change(RTM_NEWADDR, _address_body(address, index), flags=flags)


def delete_address(connection: Netlink, address: Address, index: int) -> bool:
    """False where it was gone."""
    return _unless_gone(lambda: connection.change(RTM_DELADDR, _address_body(address, index)))


def add_route(connection: Netlink, route: Route, index: int, *, encap_src: ipaddress.IPv4Address | None = None) -> None:
    """Raises KernelError: EEXIST where one to the same place is in the table, ENETUNREACH where `via` is nowhere.

    *encap_src* is the outer source for a route with `encap`; None: what the way there says.
    """
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    connection.change(RTM_NEWROUTE, _route_body(route, index) + _encap_body(route, encap_src), flags=flags)


def replace_route(
    connection: Netlink, route: Route, index: int, *, encap_src: ipaddress.IPv4Address | None = None
) -> None:
    """Put *route* in the place of the one with the same destination and table, with no moment between."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    connection.change(RTM_NEWROUTE, _route_body(route, index) + _encap_body(route, encap_src), flags=flags)


def delete_route(connection: Netlink, route: Route, index: int) -> bool:
    """False where it was gone. The protocol number is part of the request: nobody else's route matches."""
    return _unless_gone(lambda: connection.change(RTM_DELROUTE, _route_body(route, index)))


def add_rule(connection: Netlink, rule: Rule) -> None:
    """Raises KernelError: EEXIST where the same rule is there."""
    connection.change(RTM_NEWRULE, _rule_body(rule), flags=netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)


def delete_rule(connection: Netlink, rule: Rule) -> bool:
    """False where it was gone."""
    return _unless_gone(lambda: connection.change(RTM_DELRULE, _rule_body(rule)))


def _unless_gone(call: Callable[[], None]) -> bool:
    try:
        call()
    except KernelError as exc:
        if exc.errno in _GONE:
            return False
        raise
    return True


def _address_body(address: Address, index: int) -> bytes:
    interface = address.address
    body = _IFADDR.pack(socket.AF_INET, interface.network.prefixlen, 0, SCOPE_UNIVERSE, index)
    body += netlink.attr(IFA_LOCAL, interface.ip.packed) + netlink.attr(IFA_ADDRESS, interface.ip.packed)
    if interface.network.prefixlen < 31:
        body += netlink.attr(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return body + netlink.attr_u8(IFA_PROTO, ROUTE_PROTOCOL)


def _route_body(route: Route, index: int) -> bytes:
    table = route.table if route.table < 256 else TABLE_COMPAT
    scope = SCOPE_UNIVERSE if route.via else SCOPE_LINK
    body = _RTMSG.pack(
        socket.AF_INET, route.dst.prefixlen, 0, 0, table, ROUTE_PROTOCOL, scope, RTN_UNICAST, 0
    ) + netlink.attr(RTA_DST, route.dst.network_address.packed)
    body += netlink.attr_u32(RTA_OIF, index) + netlink.attr_u32(RTA_TABLE, route.table)
    if route.via is not None:
        body += netlink.attr(RTA_GATEWAY, route.via.packed)
    if route.src is not None:
        body += netlink.attr(RTA_PREFSRC, route.src.packed)
    return body


def _encap_body(route: Route, src: ipaddress.IPv4Address | None) -> bytes:
    if route.encap is None:
        return b""
    header = [
        netlink.attr(LWTUNNEL_IP_DST, route.encap.packed),
        netlink.attr_u8(LWTUNNEL_IP_TTL, TUNNEL_TTL),
        netlink.attr(LWTUNNEL_IP_FLAGS, struct.pack("!H", TUNNEL_DONT_FRAGMENT)),
    ]
    if src is not None:
        header.append(netlink.attr(LWTUNNEL_IP_SRC, src.packed))
    return netlink.nested(RTA_ENCAP, *header) + netlink.attr_u16(RTA_ENCAP_TYPE, LWTUNNEL_ENCAP_IP)


def _encap(found: Mapping[int, bytes]) -> ipaddress.IPv4Address | None:
    if found.get(RTA_ENCAP_TYPE) != struct.pack("=H", LWTUNNEL_ENCAP_IP):
        return None
    return _address(netlink.parse_attrs(found[RTA_ENCAP]).get(LWTUNNEL_IP_DST))


def _rule_body(rule: Rule) -> bytes:
    table = rule.table if rule.table < 256 else TABLE_COMPAT
    lengths = (rule.dst.prefixlen if rule.dst else 0, rule.src.prefixlen if rule.src else 0)
    body = _RTMSG.pack(socket.AF_INET, *lengths, 0, table, 0, 0, FR_ACT_TO_TBL, 0)
    if rule.dst is not None:
        body += netlink.attr(FRA_DST, rule.dst.network_address.packed)
    if rule.src is not None:
        body += netlink.attr(FRA_SRC, rule.src.network_address.packed)
    body += netlink.attr_u32(FRA_PRIORITY, rule.priority) + netlink.attr_u32(FRA_TABLE, rule.table)
    return body + netlink.attr_u8(FRA_PROTOCOL, ROUTE_PROTOCOL)


def _address(raw: bytes | None) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(raw) if raw else None


def _network(raw: bytes | None, length: int) -> ipaddress.IPv4Network | None:
    return ipaddress.IPv4Network((raw, length)) if raw else None
