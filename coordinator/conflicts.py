"""What two clusters must not both have at one NATBox: an address of their own, a published port. From the journal.

NATBox itself refuses what it has already (its Probe and Apply); here it is told earlier, with the line of the file,
and also of clusters that are not up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from google.protobuf import json_format

from coordinator.config import ClusterFile
from coordinator.config.check_publishing import external_of
from coordinator.config.cluster import Path, PublishedPort
from coordinator.config.problem import Report
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX, Journal
from proto import types_pb2
from proto.model import GatewayTable, Publication
from proto.wire import gateway_table_from_wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An external address, which is one cluster's alone; or, of the uplink's own (None), a port."""

    address: IPv4Address | None = None
    protocol: str = ""
    port: int = 0

    def __str__(self) -> str:
        return (
            f"{self.protocol} port {self.port} of NATBox's own address" if self.address is None else str(self.address)
        )


def check_conflicts(fleet: Fleet, journal: Journal, file: ClusterFile) -> None:
    """ConfigError (INVALID) with every line of *file* that claims what another cluster of the journal has."""
    claims = list(claims_of(file))
    if file.natbox is None or not claims:
        return
    report = Report(file.file or file.name)
    others = _find_others(journal, file.name, fleet.natbox_names(str(file.natbox.address)))
    told: set[tuple[Path, str]] = set()
    for path, claim in claims:
        for cluster in (name for name, theirs in others.items() if claim in theirs and (path, name) not in told):
            told.add((path, cluster))  # of the ports of an API one is enough
            what, hint = ("publishes", "port") if claim.address is None else ("has", "address")
            message = f"cluster {cluster} {what} {claim} already"
            hint = f"choose another {hint}, or take that one down: caas down {cluster}"
            report.add(file.place(*path), ".".join(path), message, hint=hint)
    report.check()


def claims_of(file: ClusterFile) -> Iterator[tuple[Path, Claim]]:
    """What *file* has at NATBox, and where it says so."""
    for name, network in file.vlans.items():
        if network.external is not None:
            yield ("networks", name, "external"), Claim(address=network.external)
    for name, spec in file.containers.items():
        if spec.external is not None:
            yield ("containers", name, "external"), Claim(address=spec.external)
    for one in file.publications:
        if external_of(file, one.container) is None:
            yield (*one.path, "port") if one in file.ports else one.path, _claim(one)


def _claims_in(table: GatewayTable) -> Iterator[Claim]:
    for gateway in table.gateways:
        yield from (Claim(address=own.external) for own in gateway.own_addresses)
        if gateway.external is not None:
            yield Claim(address=gateway.external)
        else:
            yield from map(_claim, gateway.publications)


def _claim(one: Publication | PublishedPort) -> Claim:
    return Claim(protocol=one.protocol, port=one.port)


def _find_others(journal: Journal, name: str, natbox: Sequence[str]) -> Mapping[str, frozenset[Claim]]:
    """The claims of each other cluster at the NATBox that *natbox* are addresses of, by the cluster's name."""
    found = {}
    for cluster in journal.clusters_at(NATBOX, natbox):
        record = journal.find(cluster)
        # Most clusters publish nothing: their tables need not be read.
        if cluster == name or record is None or not any(word in record.remembered for word in _WORDS):
            continue
        table = types_pb2.GatewayTable()
        json_format.ParseDict(json.loads(record.remembered)["natbox"] or {}, table)
        if table.cluster:
            found[cluster] = frozenset(_claims_in(gateway_table_from_wire(table)))
    return found


#: Fields of types_pb2.Gateway, as JSON has them.
_WORDS = ('"external"', '"publications"')
