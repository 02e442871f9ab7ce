"""What a table must be before anything is touched: sound in itself, not older than the one in force, and alone on its
VIDs. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from agent.kernel.natbox_layout import MARK_TEXT_MAX, PREFIX_MIN
from proto.errors import CaasError, Code, invalid
from proto.marks import Mark
from proto.model import Gateway, GatewayTable

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
Tables = Mapping[str, GatewayTable]


def make_sorted(table: GatewayTable) -> GatewayTable:
    """The same table in the one order in which tables are compared."""
    gateways = (
        replace(gateway, neighbours=tuple(sorted(gateway.neighbours, key=lambda near: near.address)))
        for gateway in table.gateways
    )
    return replace(table, gateways=tuple(sorted(gateways, key=lambda gateway: gateway.vid)))


def check_table(table: GatewayTable, tables: Tables) -> None:
    """Raise INVALID, STALE or CONFLICT where *table* cannot be put into force beside *tables*."""
    for gateway in table.gateways:
        _check_gateway(gateway)
    _check_generation(table, tables.get(table.cluster))
    mine = {gateway.vid: gateway for gateway in table.gateways}
    for other in tables.values():
        if other.cluster == table.cluster:
            continue
        for gateway in other.gateways:
            if gateway.vid in mine:
                raise CaasError(
                    Code.CONFLICT,
                    f"gateway {mine[gateway.vid].name}: VID {gateway.vid} belongs to {gateway.name}",
                    hint="choose another VID for one of the two clusters",
                )


def _check_gateway(gateway: Gateway) -> None:
    network = gateway.gateway.network
    if network.prefixlen < PREFIX_MIN or network.prefixlen > 30:
        raise invalid(
            f"gateway {gateway.name}: subnet {network}: NATBox takes prefixes from /{PREFIX_MIN} to /30",
            hint="a network of a cluster has at most 65,534 addresses; use several networks for more",
        )
    reserved = {network.network_address: "network", network.broadcast_address: "broadcast"}
    if what := reserved.get(gateway.gateway.ip):
        raise invalid(f"gateway {gateway.name}: {gateway.gateway.ip} is the {what} address of {network}")
    if not network[0].packed[0] or network.is_multicast or network.is_loopback or network.is_reserved:
        raise invalid(f"gateway {gateway.name}: subnet {network}: not addresses that a container may have")
    if len(str(Mark(gateway.cluster, gateway.network)).encode()) > MARK_TEXT_MAX:
        raise invalid(f"gateway {gateway.name}: the name is too long")
    seen = set()
    for near in gateway.neighbours:
        if what := reserved.get(near.address):
            raise invalid(f"gateway {gateway.name}: neighbour {near.address} is the {what} address of {network}")
        if near.address in seen:
            raise invalid(f"gateway {gateway.name}: neighbour {near.address} is there twice")
        if not _MAC.fullmatch(near.mac) or int(near.mac[:2], 16) & 1:
            raise invalid(f"gateway {gateway.name}: neighbour {near.address}: MAC {near.mac!r} is none of a container")
        seen.add(near.address)


def _check_generation(table: GatewayTable, before: GatewayTable | None) -> None:
    if before is None:
        return
    hint = "another coordinator changed it: run `caas plan` again"
    if table.generation < before.generation:
        raise CaasError(
            Code.STALE,
            f"{table.cluster} at NATBox: generation {table.generation} is older than {before.generation}, in force",
            hint=hint,
        )
    if table.generation == before.generation and make_sorted(table) != make_sorted(before):
        raise CaasError(
            Code.STALE,
            f"{table.cluster} at NATBox: generation {table.generation} is in force with other contents",
            hint=hint,
        )
