"""`caas natbox status` and `explain`: what the NATBoxes of the clusters have and do, asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from coordinator.compiling import describe_publishing
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX, Journal
from coordinator.packet import describe_packet
from proto import coordinator_pb2, natbox_pb2
from proto.errors import CaasError, Code, invalid
from proto.wire import gateway_table_from_wire

Counters = natbox_pb2.NatBoxCountersReply.PerVid


async def status(fleet: Fleet, journal: Journal, address: str) -> dict[str, Any]:
    """The document of `caas natbox status`: the NATBox at *address*, or with "" every one that a cluster has."""
    addresses = [address] if address else _list_known(fleet, journal)
    return {"natboxes": await asyncio.gather(*(_look(fleet, one) for one in addresses))}


async def explain(fleet: Fleet, journal: Journal, request: coordinator_pb2.ExplainRequest) -> dict[str, Any]:
    """The document of `caas natbox explain`. Without an address in *request* there must be one NATBox to ask."""
    address = request.natbox or _only(_list_known(fleet, journal))
    answer = await fleet.natbox(address).explain(request.packet)
    return {
        "natbox": address,
        "packet": describe_packet(request.packet),
        "verdict": answer.verdict,
        "reason": answer.reason,
        "cluster": answer.cluster,
        "network": answer.network,
        "steps": list(answer.steps),
    }


def _list_known(fleet: Fleet, journal: Journal) -> list[str]:
    """One address of each NATBox that a cluster has."""
    found: dict[tuple[str, ...], str] = {}
    for address in journal.addresses_of(NATBOX):
        found.setdefault(fleet.natbox_names(address), address)
    return list(found.values())


def _only(addresses: Sequence[str]) -> str:
    if not addresses:
        hint = "name one: --natbox ADDRESS"
        raise CaasError(Code.NOT_FOUND, "no cluster of this coordinator has a NATBox", hint=hint)
    if len(addresses) > 1:
        raise invalid(f"there are several NATBoxes: {', '.join(addresses)}", hint="name one: --natbox ADDRESS")
    return addresses[0]


async def _look(fleet: Fleet, address: str) -> dict[str, Any]:
    client = fleet.natbox(address)
    try:
        probe, seen, counters = await asyncio.gather(client.probe(), client.observe(""), client.counters(""))
    except CaasError as exc:
        return {"address": address, "state": exc.code.value, "message": exc.message}
    counted = {entry.vid: entry for entry in counters.counters}
    tables = [gateway_table_from_wire(table) for table in seen.tables]
    return {
        "address": address,
        "state": "up",
        "version": probe.version,
        "kernel": probe.kernel,
        "trunk": probe.trunk,
        "uplink": probe.uplink,
        "uplink_addresses": list(probe.uplink_addresses),
        "lacks": [{"what": lack.what, "mend": lack.mend} for lack in probe.lacks],
        "connections": counters.connections,
        "connections_max": counters.connections_max,
        "alarms": list(counters.alarms),
        "trunk_drops": dict(sorted(counters.trunk_drops.items())),
        "networks": [
            {
                "cluster": table.cluster,
                "network": gateway.network,
                "vid": gateway.vid,
                "subnet": str(gateway.gateway.network),
                "gateway": str(gateway.gateway.ip),
                **describe_publishing(gateway, {}),
                **describe_counters(counted.get(gateway.vid, Counters())),
            }
            for table in tables
            for gateway in table.gateways
        ],
    }


def describe_counters(entry: Counters) -> dict[str, Any]:
    """What passed and passes of one network, as documents have it."""
    return {
        "out_packets": entry.out_packets,
        "out_bytes": entry.out_bytes,
        "in_packets": entry.in_packets,
        "in_bytes": entry.in_bytes,
        "connections": entry.connections,
        "connections_max": entry.connections_max,
        "drops": dict(sorted(entry.drops.items())),
    }
