"""Which connections a change of a VLAN ends: those by a way in or out that it has no more. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from agent.kernel.natbox_connections import Connection
from agent.kernel.natbox_elements import PROTOCOL_NUMBERS, make_inner
from proto.model import Gateway

#: External address (None: the uplink's), protocol, port, inner address, port there.
Door = tuple[ipaddress.IPv4Address | None, int, int, ipaddress.IPv4Address, int]
#: External and inner address.
Pair = tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]


def make_cut(before: Gateway, after: Gateway) -> Callable[[Connection], bool] | None:
    """Whether a connection of *before* is one that *after* would not have. None where there can be none.

    What left by the uplink's own address goes on when the VLAN gets another: that one stays NATBox's.
    """
    doors, pairs = _list_doors(before) - _list_doors(after), _list_pairs(before) - _list_pairs(after)
    source = before.external if before.external != after.external else None
    if not doors and not pairs and source is None:
        return None

    def is_cut(one: Connection) -> bool:
        return (
            (source is not None and one.answer_destination == source)
            or (one.destination, one.answer_source) in pairs
            or (one.answer_destination, one.source) in pairs
            or any(
                (one.protocol, one.destination_port, one.answer_source) == (protocol, port, inner)
                and external in (None, one.destination)
                for external, protocol, port, inner, _ in doors
            )
        )

    return is_cut


def _list_doors(gateway: Gateway) -> set[Door]:
    return {
        (gateway.external, PROTOCOL_NUMBERS[one.protocol], one.port, _inner(gateway, one.to), one.to_port)
        for one in gateway.publications
    }


def _list_pairs(gateway: Gateway) -> set[Pair]:
    return {(own.external, _inner(gateway, own.address)) for own in gateway.own_addresses}


def _inner(gateway: Gateway, address: ipaddress.IPv4Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(make_inner(gateway.vid, address))
