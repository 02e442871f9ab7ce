"""What two clusters must not both have at one NATBox: an address of their own, a published port. From the journal.

NATBox itself refuses what it has already (its Probe and Apply); here it is told earlier, with the line of the file,
and also of clusters that are not up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from google.protobuf import json_format

from coordinator.config import ClusterFile
from coordinator.config.check_publishing import external_of
from coordinator.config.cluster import Path
from coordinator.config.problem import Report
from coordinator.journal import NATBOX, Journal
from proto import types_pb2
from proto.model import GatewayTable
from proto.wire import gateway_table_from_wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A port of an external address (None: the uplink's own); port 0 is the address itself.

    With `alone` nobody else may have anything of the address.
    """

    address: IPv4Address | None
    protocol: str = ""
    port: int = 0
    alone: bool = False

    def excludes(self, other: Claim) -> bool:
        """Whether only one of the two can be had."""
        if self.address != other.address:
            return False
        return self.alone or other.alone or (self.port != 0 and self._door == other._door)

    @property
    def _door(self) -> tuple[str, int]:
        return self.protocol, self.port

    def __str__(self) -> str:
        where = str(self.address) if self.address else "NATBox's own address"
        return f"{self.protocol} port {self.port} of {where}" if self.port else where


def check_conflicts(journal: Journal, file: ClusterFile) -> None:
    """ConfigError (INVALID) with every line of *file* that claims what another cluster of the journal has."""
    claims = list(claims_of(file))
    if file.natbox is None or not claims:
        return
    report = Report(file.file or file.name)
    others = _find_others(journal, file.name, str(file.natbox.address))
    told: set[tuple[Path, str]] = set()
    for path, claim in claims:
        for cluster, theirs in others.items():
            # Of the ports of an API one is enough.
            if (path, cluster) in told:
                continue
            if found := next((one for one in theirs if claim.excludes(one)), None):
                told.add((path, cluster))
                message, hint = _tell(claim, found, cluster)
                report.add(file.place(*path), ".".join(path), message, hint=hint)
    report.check()


def claims_of(file: ClusterFile) -> Iterator[tuple[Path, Claim]]:
    """What *file* has at NATBox, and where it says so."""
    for name, network in file.vlans.items():
        if network.external is not None:
            yield ("networks", name, "external"), Claim(address=network.external)
    for name, spec in file.containers.items():
        if spec.external is not None:
            yield ("containers", name, "external"), Claim(address=spec.external, alone=True)
    for one in file.publications:
        path = (*one.path, "port") if one in file.ports else one.path
        yield path, Claim(address=external_of(file, one.container), protocol=one.protocol, port=one.port)


def _claims_in(table: GatewayTable) -> Iterator[Claim]:
    for gateway in table.gateways:
        if gateway.external is not None:
            yield Claim(address=gateway.external)
        yield from (Claim(address=one.external, alone=True) for one in gateway.own_addresses)
        for one in gateway.publications:
            yield Claim(address=gateway.external, protocol=one.protocol, port=one.port)


def _find_others(journal: Journal, name: str, natbox: str) -> Mapping[str, Iterable[Claim]]:
    """The claims of each other cluster at the NATBox at *natbox*, by its name."""
    found = {}
    for cluster in journal.clusters_at(NATBOX, natbox):
        record = journal.find(cluster)
        # Most clusters publish nothing: their tables need not be read.
        if cluster == name or record is None or not any(word in record.remembered for word in _WORDS):
            continue
        table = types_pb2.GatewayTable()
        json_format.ParseDict(json.loads(record.remembered)["natbox"] or {}, table)
        if table.cluster:
            found[cluster] = list(_claims_in(gateway_table_from_wire(table)))
    return found


#: Fields of types_pb2.Gateway, as JSON has them.
_WORDS = ('"external"', '"publications"')


def _tell(claim: Claim, found: Claim, cluster: str) -> tuple[str, str]:
    down = f"or take it down: caas down {cluster}"
    if claim.alone or found.alone:
        return f"cluster {cluster} has {found} already", f"choose another address, {down}"
    return f"cluster {cluster} publishes {found} already", f"choose another port or external address, {down}"
