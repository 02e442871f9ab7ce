"""What a table must be before anything is touched: sound in itself, not older than the one in force, and alone on its
VIDs, addresses and ports. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from agent.kernel.natbox_layout import MARK_TEXT_MAX, PREFIX_MIN, Surroundings
from natbox.explain import MAC
from natbox.tables import Tables, list_claims
from proto.errors import CaasError, Code, invalid
from proto.marks import Mark
from proto.model import Gateway, GatewayTable


def make_sorted(table: GatewayTable) -> GatewayTable:
    """The same table in the one order in which tables are compared."""
    gateways = (
        replace(
            gateway,
            neighbours=tuple(sorted(gateway.neighbours, key=lambda near: near.address)),
            publications=tuple(sorted(gateway.publications, key=lambda one: (one.protocol, one.port))),
            own_addresses=tuple(sorted(gateway.own_addresses, key=lambda own: own.external)),
        )
        for gateway in table.gateways
    )
    return replace(table, gateways=tuple(sorted(gateways, key=lambda gateway: gateway.vid)))


def check_table(table: GatewayTable, tables: Tables, surroundings: Surroundings) -> None:
    """Raise INVALID, STALE or CONFLICT where *table* cannot be put into force beside *tables* on that machine.

    A port that somebody on the machine listens at is refused only where *table* has it new.
    """
    for gateway in table.gateways:
        _check_gateway(gateway)
        _check_externals(gateway, surroundings)
    before = tables.get(table.cluster)
    _check_generation(table, before)
    _check_claims(table, tables)
    for gateway in table.gateways:
        _check_listening(gateway, surroundings, before)


def needs_surroundings(table: GatewayTable) -> bool:
    """Whether anything of the machine itself could stand in the way of *table*."""
    return any(gateway.external or gateway.publications or gateway.own_addresses for gateway in table.gateways)


def _check_claims(table: GatewayTable, tables: Tables) -> None:
    """Nobody else has what *table* takes, and it takes nothing twice."""
    mine: dict[str, Gateway] = {}
    for gateway in table.gateways:
        for claim in list_claims(gateway):
            own = mine.setdefault(claim.what, gateway)
            is_twice = own is not gateway and not (claim.shared and own.external == gateway.external)
            if other := own if is_twice else tables.find_other(claim.what, table.cluster):
                raise CaasError(
                    Code.CONFLICT,
                    f"gateway {gateway.name}: {claim.what} belongs to {other.name}",
                    hint=_mend(claim.what),
                )


def _mend(what: str) -> str:
    if what.startswith("VID"):
        return "choose another VID for one of the two clusters"
    if what.startswith("external"):
        return "give one of the two another external address"
    return "publish another port for one of the two, or give one an external address of its own"


def _check_externals(gateway: Gateway, surroundings: Surroundings) -> None:
    """What NATBox is to answer for outside must be an address that it can have."""
    outside = [own.external for own in gateway.own_addresses]
    if gateway.external is not None:
        outside.append(gateway.external)
    for address in outside:
        if not address.packed[0] or address.is_multicast or address.is_loopback or address.is_reserved:
            raise invalid(f"gateway {gateway.name}: external address {address}: not an address that a host may have")
        if address in surroundings.addresses:
            raise invalid(
                f"gateway {gateway.name}: external address {address} is NATBox's own",
                hint="leave `external` out: the uplink's own address is what is used then",
            )
        if address in gateway.gateway.network:
            raise invalid(f"gateway {gateway.name}: external address {address} is inside {gateway.gateway.network}")


def _check_listening(gateway: Gateway, surroundings: Surroundings, before: GatewayTable | None) -> None:
    if gateway.external is not None:
        return  # the machine's own are at addresses of its own
    known = {
        (one.protocol, one.port)
        for earlier in (before.gateways if before is not None else ())
        if earlier.external is None
        for one in earlier.publications
    }
    for one in gateway.publications:
        door = (one.protocol, one.port)
        if door in surroundings.listening and door not in known:
            raise CaasError(
                Code.CONFLICT,
                f"gateway {gateway.name}: {one.protocol} port {one.port} of the uplink's own address: "
                "somebody on NATBox's machine listens there",
                hint="publish another port, or give the network an external address of its own",
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
        if not MAC.fullmatch(near.mac) or int(near.mac[:2], 16) & 1:
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
