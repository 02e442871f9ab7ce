"""IPv4 addresses, routes and policy rules: dumps and changes (ip-address(8), ip-route(8), ip-rule(8)).

Ours are routes and rules by their protocol number, and addresses by theirs (IFA_PROTO, Linux 5.18) or because they
stand on a link of ours.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from socket import AF_INET

from pyroute2.netlink.rtnl import RTM_GETROUTE

from agent.kernel.encap import make_encap, read_encap
from agent.kernel.links import Links, SeenLink
from agent.kernel.netlink import DUMP, GET, KernelError, Message, Netlink, Request
from proto.marks import ANSWER_MARK, ANSWER_RULE_PRIORITY, ROUTE_PROTOCOL
from proto.model import KIND_VXLAN, Address, Route, Rule

RTN_UNICAST, RTN_LOCAL = 1, 2
RT_TABLE_MAIN = 254
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4
_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address with the number of who set it (IFA_PROTO; 0 where nobody said)."""

    thing: Address
    protocol: int


def list_addresses(connection: Netlink, links: Links) -> list[SeenAddress]:
    """All IPv4 addresses on *links*. Raises KernelError."""

    def read(message: Message) -> SeenAddress | None:
        link = links.by_index.get(message["index"])
        thing = Address(link=link.name, address=read_interface(message)) if link else None
        return SeenAddress(thing, message.get_attr("IFA_PROTO") or 0) if thing else None

    return [seen for seen in connection.dump(lambda route: route.addr("dump", family=AF_INET), read) if seen]


def read_interface(message: Message) -> ipaddress.IPv4Interface:
    """The address in a message of an address dump; of a point-to-point link, this end's."""
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ipaddress.IPv4Interface((address, message["prefixlen"]))


def list_routes(connection: Netlink, links: Links) -> list[Route]:
    """Our IPv4 routes through *links*. The kernel picks them out by protocol number. Raises KernelError."""

    def read(message: Message) -> Route | None:
        link = links.by_index.get(message.get_attr("RTA_OIF"))
        if message["proto"] != ROUTE_PROTOCOL or link is None or message["type"] == RTN_LOCAL:
            return None  # those of type local are NATBox's external addresses
        via = _address(message.get_attr("RTA_GATEWAY"))
        return Route(
            dst=_network(message.get_attr("RTA_DST"), message["dst_len"]) or ipaddress.IPv4Network("0.0.0.0/0"),
            dev="" if via is not None and _is_direct(message, link) else link.name,
            via=None if is_vxlan(link) else via,
            src=_address(message.get_attr("RTA_PREFSRC")),
            table=_table(message, "RTA_TABLE"),
            encap=via if is_vxlan(link) else read_encap(message),
        )

    found = connection.dump(lambda route: route.route((RTM_GETROUTE, DUMP), family=AF_INET, proto=ROUTE_PROTOCOL), read)
    return [route for route in found if route]


def is_vxlan(link: SeenLink) -> bool:
    """Whether *link* is a vxlan of ours."""
    return link.kind == KIND_VXLAN and link.mark is not None


def _is_direct(message: Message, link: SeenLink) -> bool:
    """Whether a route by a next hop is one without a link of ours. NATBox's have a metric and are `onlink`."""
    is_plain = not message["flags"] & RTNH_F_ONLINK and not message.get_attr("RTA_PRIORITY")
    return link.mark is None and is_plain


def list_foreign_destinations(connection: Netlink, links: Links) -> list[ipaddress.IPv4Network]:
    """Destinations of the main table's unicast routes that are not ours, without the default. Raises KernelError.

    Those by a link of ours are ours too: the kernel makes one for each address.
    """

    def read(message: Message) -> ipaddress.IPv4Network | None:
        link = links.by_index.get(message.get_attr("RTA_OIF"))
        is_ours = message["proto"] == ROUTE_PROTOCOL or (link is not None and link.mark is not None)
        is_theirs = not is_ours and message["type"] == RTN_UNICAST
        if not is_theirs or _table(message, "RTA_TABLE") != RT_TABLE_MAIN:
            return None
        return _network(message.get_attr("RTA_DST"), message["dst_len"])

    found = connection.dump(lambda route: route.route((RTM_GETROUTE, DUMP), family=AF_INET, table=RT_TABLE_MAIN), read)
    return sorted({network for network in found if network})


def list_default_links(connection: Netlink) -> list[int]:
    """The ifindices of the main table's default route, the one with the lowest metric. Raises KernelError."""

    def read(message: Message) -> tuple[int, list[int]] | None:
        is_default = message["dst_len"] == 0 and message["type"] == RTN_UNICAST
        if not is_default or _table(message, "RTA_TABLE") != RT_TABLE_MAIN:
            return None
        hops = message.get_attr("RTA_MULTIPATH") or ()
        return message.get_attr("RTA_PRIORITY") or 0, [message.get_attr("RTA_OIF") or 0, *(hop["oif"] for hop in hops)]

    found = connection.dump(lambda route: route.route((RTM_GETROUTE, DUMP), family=AF_INET, table=RT_TABLE_MAIN), read)
    return next((links for _, links in sorted(each for each in found if each)), [])


def find_out_link(connection: Netlink, remote: ipaddress.IPv4Address, *, src: ipaddress.IPv4Address) -> int:
    """The ifindex of the link by which packets from *src*, an address of the host's, go to *remote*; 0 where none."""
    return find_way(connection, remote, src=src)[0]


def find_way(
    connection: Netlink, remote: ipaddress.IPv4Address, *, src: ipaddress.IPv4Address | None = None
) -> tuple[int, ipaddress.IPv4Address | None]:
    """The ifindex of the link by which packets go to *remote*, 0 where none, and the next hop that is on the way.

    *src* is an address of the host's.
    """
    source = {} if src is None else {"src": f"{src}/32"}
    try:
        (message,) = connection.ask(
            lambda route: route.route((RTM_GETROUTE, GET), family=AF_INET, dst=f"{remote}/32", **source)
        )
    except KernelError as exc:
        if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
            return 0, None  # no way there, or *src* is no address of the host's
        raise
    return message.get_attr("RTA_OIF") or 0, _address(message.get_attr("RTA_GATEWAY"))


def list_rules(connection: Netlink) -> list[Rule]:
    """Our IPv4 policy rules, but for the one of `has_answer_rule`. Raises KernelError."""

    def read(message: Message) -> Rule | None:
        if message.get_attr("FRA_PROTOCOL") != ROUTE_PROTOCOL or message.get_attr("FRA_FWMARK"):
            return None
        return Rule(
            priority=message.get_attr("FRA_PRIORITY") or 0,
            src=_network(message.get_attr("FRA_SRC"), message["src_len"]),
            dst=_network(message.get_attr("FRA_DST"), message["dst_len"]),
            table=_table(message, "FRA_TABLE"),
        )

    return [rule for rule in connection.dump(lambda route: route.rule("dump", family=AF_INET), read) if rule]


def has_answer_rule(connection: Netlink) -> bool:
    """Whether answers of forwarded connections are looked up in the main table first. Raises KernelError."""
    return any(
        connection.dump(
            lambda route: route.rule("dump", family=AF_INET),
            lambda message: (
                message.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL
                and message.get_attr("FRA_PRIORITY") == ANSWER_RULE_PRIORITY
                and message.get_attr("FRA_FWMARK") == message.get_attr("FRA_FWMASK") == ANSWER_MARK
                and _table(message, "FRA_TABLE") == RT_TABLE_MAIN
            ),
        )
    )


def add_answer_rule(connection: Netlink) -> None:
    """Raises KernelError: EEXIST where it is there."""
    connection.change(_answer_rule_request("add"))


def delete_answer_rule(connection: Netlink) -> bool:
    """False where it was gone."""
    return _unless_gone(lambda: connection.change(_answer_rule_request("del")))


def _answer_rule_request(command: str) -> Request:
    return lambda route: route.rule(
        command,
        family=AF_INET,
        priority=ANSWER_RULE_PRIORITY,
        fwmark=ANSWER_MARK,
        fwmask=ANSWER_MARK,
        table=RT_TABLE_MAIN,
        protocol=ROUTE_PROTOCOL,
    )


def add_address(connection: Netlink, address: Address, index: int) -> None:
    """Raises KernelError: EEXIST where it is there."""
    connection.change(_address_request("add", address, index))


def delete_address(connection: Netlink, address: Address, index: int) -> bool:
    """False where it was gone."""
    return _unless_gone(lambda: connection.change(_address_request("del", address, index)))


def add_route(
    connection: Netlink, route: Route, link: SeenLink | None, *, encap_src: ipaddress.IPv4Address | None = None
) -> None:
    """Raises KernelError: EEXIST where one to the same place is in the table, ENETUNREACH where `via` is nowhere.

    *link* is its `dev`. *encap_src* is the outer source for a route with `encap`; None: what the way there says.
    """
    connection.change(_route_request("add", route, link, encap_src=encap_src))


def replace_route(
    connection: Netlink, route: Route, link: SeenLink | None, *, encap_src: ipaddress.IPv4Address | None = None
) -> None:
    """Put *route* in the place of the one with the same destination and table, with no moment between."""
    connection.change(_route_request("replace", route, link, encap_src=encap_src))


def delete_route(connection: Netlink, route: Route, link: SeenLink | None) -> bool:
    """False where it was gone. The protocol number is part of the request: nobody else's route matches."""
    return _unless_gone(lambda: connection.change(_route_request("del", replace(route, encap=None), link)))


def add_rule(connection: Netlink, rule: Rule) -> None:
    """Raises KernelError: EEXIST where the same rule is there."""
    connection.change(_rule_request("add", rule))


def delete_rule(connection: Netlink, rule: Rule) -> bool:
    """False where it was gone."""
    return _unless_gone(lambda: connection.change(_rule_request("del", rule)))


def _unless_gone(call: Callable[[], None]) -> bool:
    try:
        call()
    except KernelError as exc:
        if exc.errno in _GONE:
            return False
        raise
    return True


def _address_request(command: str, address: Address, index: int) -> Request:
    interface = address.address
    network = interface.network
    return lambda route: route.addr(
        command,
        family=AF_INET,
        index=index,
        address=str(interface.ip),
        prefixlen=network.prefixlen,
        broadcast=str(network.broadcast_address) if network.prefixlen < 31 else None,
        scope=SCOPE_UNIVERSE,
        proto=ROUTE_PROTOCOL,
    )


def _route_request(
    command: str, wanted: Route, link: SeenLink | None, *, encap_src: ipaddress.IPv4Address | None = None
) -> Request:
    # On a vxlan the far end is also the next hop: by its neighbour entry the inner frame gets its address.
    by_vxlan = wanted.encap is not None and link is not None and is_vxlan(link)
    via = wanted.encap if by_vxlan else wanted.via
    return lambda route: route.route(
        command,
        family=AF_INET,
        dst=str(wanted.dst),
        oif=link.index if link is not None else None,
        gateway=str(via) if via is not None else None,
        prefsrc=str(wanted.src) if wanted.src is not None else None,
        table=wanted.table,
        proto=ROUTE_PROTOCOL,
        scope=SCOPE_UNIVERSE if via is not None else SCOPE_LINK,
        type=RTN_UNICAST,
        flags=RTNH_F_ONLINK if by_vxlan else 0,
        **({} if by_vxlan else make_encap(wanted.encap, src=encap_src)),
    )


def _rule_request(command: str, wanted: Rule) -> Request:
    return lambda route: route.rule(
        command,
        family=AF_INET,
        priority=wanted.priority,
        src=str(wanted.src) if wanted.src is not None else None,
        dst=str(wanted.dst) if wanted.dst is not None else None,
        table=wanted.table,
        protocol=ROUTE_PROTOCOL,
    )


def _table(message: Message, attribute: str) -> int:
    """The header has room for tables up to 255 only."""
    return int(message.get_attr(attribute) or message["table"])


def _address(text: str | None) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(text) if text else None


def _network(text: str | None, length: int) -> ipaddress.IPv4Network | None:
    return ipaddress.IPv4Network((text, length)) if text else None
