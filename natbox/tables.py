"""The tables in force, and who of them has which VID, external address and published port."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from proto.model import Gateway, GatewayTable


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that one network may have and no other; *shared*: other networks of its cluster may have it, too.

    `what` says it in words that a conflict is told in: "VID 100", "external address 203.0.113.7", "tcp port 80 of …".
    """

    what: str
    shared: bool = False


def list_claims(gateway: Gateway) -> Iterator[Claim]:
    """What *gateway* takes for itself."""
    yield Claim(f"VID {gateway.vid}")
    if gateway.external is not None:
        yield Claim(name_external(gateway.external), shared=True)
    place = "the uplink's own address" if gateway.external is None else gateway.external
    for one in gateway.publications:
        yield Claim(f"{one.protocol} port {one.port} of {place}")
    for own in gateway.own_addresses:
        yield Claim(name_external(own.external))


def name_external(address: ipaddress.IPv4Address) -> str:
    return f"external address {address}"


class Tables(Mapping[str, GatewayTable]):
    """By cluster. Looking for the owner of something costs the same whatever the number of clusters."""

    def __init__(self, tables: Iterable[GatewayTable] = ()) -> None:
        self._tables: dict[str, GatewayTable] = {}
        self._owners: dict[str, dict[str, Gateway]] = {}
        self._by_vid: dict[int, Gateway] = {}
        for table in tables:
            self.put(table)

    def __getitem__(self, cluster: str) -> GatewayTable:
        return self._tables[cluster]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def put(self, table: GatewayTable) -> None:
        """In place of the cluster's table of before."""
        self.remove(table.cluster)
        self._tables[table.cluster] = table
        for gateway in table.gateways:
            self._by_vid[gateway.vid] = gateway
            for claim in list_claims(gateway):
                self._owners.setdefault(claim.what, {})[gateway.name] = gateway

    def remove(self, cluster: str) -> None:
        """Not there is success."""
        before = self._tables.pop(cluster, None)
        for gateway in before.gateways if before is not None else ():
            self._by_vid.pop(gateway.vid, None)
            for claim in list_claims(gateway):
                owners = self._owners[claim.what]
                owners.pop(gateway.name, None)
                if not owners:
                    del self._owners[claim.what]

    def find_other(self, what: str, cluster: str) -> Gateway | None:
        """A network that has *what* and is not *cluster*'s."""
        return next((one for one in self._owners.get(what, {}).values() if one.cluster != cluster), None)

    def find_vid(self, vid: int) -> Gateway | None:
        """The network with that VID."""
        return self._by_vid.get(vid)

    def gateways(self) -> Iterator[Gateway]:
        """Every network of every cluster."""
        return (gateway for table in list(self._tables.values()) for gateway in table.gateways)
