"""A NATBox without a kernel, which can be told to fail."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from agent.kernel.natbox_chains import Listen, Shares
from agent.kernel.natbox_layout import Seen, SeenGateway, SeenPath, Surroundings
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayCounters, GatewayPath, GatewayTotals


class FakeDoor:
    """Keeps VLANs in a dict. `fail(verb, name)` makes the next such call fail; `armed` is what has not failed yet."""

    def __init__(self) -> None:
        self.path = GatewayPath(trunk="eth1", uplink="eth2")
        self.vlans: dict[int, SeenGateway] = {}
        self.shares = Shares(connections=100, connections_per_second=10)
        self.listen: Listen | None = Listen(address=ipaddress.IPv4Address("203.0.113.1"), port=7444)
        self.around = Surroundings()
        self.open = 0
        """Connections of every VLAN."""
        self.laid = False
        self.writes = 0
        self.calls: list[str] = []
        self.armed: set[tuple[str, str]] = set()
        self.deaf = False

    def fail(self, verb: str, name: str) -> None:
        self.armed.add((verb, name))

    def state(self) -> tuple[bool, dict[int, SeenGateway]]:
        return self.laid, dict(self.vlans)

    def _write(self, verb: str, name: str) -> None:
        self.calls.append(f"{verb} {name}")
        if (verb, name) in self.armed:
            self.armed.discard((verb, name))
            raise CaasError(Code.FAILED, f"simulated: {verb} {name}")
        self.writes += 1

    def lacks(self) -> Sequence[tuple[str, str]]:
        return ()

    def trunk_mtu(self) -> int:
        return 1500

    def uplink_addresses(self) -> Sequence[ipaddress.IPv4Interface]:
        return [ipaddress.IPv4Interface("203.0.113.1/24")]

    def surroundings(self) -> Surroundings:
        return self.around

    def find_way(self, destination: ipaddress.IPv4Address) -> str:
        return "eth2"

    def observe_path(self) -> SeenPath:
        titles = ("nft rules", "programs")
        return SeenPath(there=titles, missing=()) if self.laid else SeenPath(there=(), missing=titles)

    def lay_path(self) -> None:
        self._write("lay", "path")
        self.laid = True

    def lift_path(self) -> None:
        self._write("lift", "path")
        self.laid = False
        self.vlans.clear()

    def observe_all(self) -> Mapping[int, SeenGateway]:
        return dict(self.vlans)

    def observe(self, expected: Iterable[Gateway]) -> Seen:
        vids = {gateway.vid for gateway in expected}
        vlans = {vid: seen for vid, seen in self.vlans.items() if vid in vids}
        return Seen(path=self.observe_path(), vlans=vlans)

    def create(self, gateway: Gateway) -> None:
        self._write("create", gateway.name)
        assert self.laid, "a VLAN without a path"
        if not self.deaf:
            self.vlans[gateway.vid] = SeenGateway(gateway=gateway, intact=True)

    def change(self, before: Gateway, after: Gateway) -> None:
        self._write("change", after.name)
        self.vlans[after.vid] = SeenGateway(gateway=after, intact=True)

    def delete(self, gateway: Gateway) -> None:
        self._write("delete", gateway.name)
        self.vlans.pop(gateway.vid, None)

    def counters(self, vids: Iterable[int]) -> Sequence[GatewayCounters]:
        return [
            GatewayCounters(
                vid=vid,
                out_packets=vid,
                out_bytes=0,
                in_packets=0,
                in_bytes=0,
                drops=(),
                connections=self.open,
                connections_max=self.vlans[vid].gateway.limits.connections or self.shares.connections,
            )
            for vid in vids
        ]

    def totals(self, owned: Iterable[int]) -> GatewayTotals:
        return GatewayTotals(drops=(("untagged", len(list(owned))),), connections=self.open, connections_max=1000)
