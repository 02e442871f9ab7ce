"""What the coordinator tells of NATBoxes: every one that a cluster has, or the one that is named."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from coordinator import natboxes
from coordinator.compiling import compile_cluster
from coordinator.config import load_file
from coordinator.journal import NATBOX, Journal
from proto import coordinator_pb2 as pb
from proto import natbox_pb2
from proto.errors import CaasError, Code
from tests.support.fake_natbox import FakeNatBox
from tests.support.fleet import FakeFleet

DEMO = Path(__file__).parents[3] / "examples/demo.yaml"
PACKET = natbox_pb2.NatBoxExplainRequest(vid=100, source="192.168.10.50", destination="203.0.113.254", protocol="icmp")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.fleet, self.journal = FakeFleet(folder), Journal(folder / "journal.db")

    def add(self, address: str, *clusters: str) -> FakeNatBox:
        for cluster in clusters:
            self.journal.hold(cluster, {NATBOX: address, "host1": "192.168.2.25"})
        found = self.fleet.natboxes[address] = FakeNatBox()
        return found

    async def status(self, address: str = "") -> list[dict[str, Any]]:
        document = await natboxes.status(self.fleet, self.journal, address)  # type: ignore[arg-type]
        found: list[dict[str, Any]] = document["natboxes"]
        return found

    async def explain(self, address: str = "") -> dict[str, Any]:
        request = pb.ExplainRequest(natbox=address, packet=PACKET)
        return await natboxes.explain(self.fleet, self.journal, request)  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_status_joins_tables_and_counters(rig: Rig) -> None:
    natbox = rig.add("10.9.0.9", "demo")
    table = compile_cluster(load_file(str(DEMO))).natbox
    assert table is not None
    gateway = replace(table.gateways[0], external=IPv4Address("203.0.113.7"))
    natbox.tables["demo"] = replace(table, gateways=(gateway,))
    counters = natbox.counters_reply.counters.add(vid=100, out_packets=5, connections=2, connections_max=9)
    counters.drops["spoofed source"] = 3
    natbox.counters_reply.alarms.append("demo/cluster is near its limit")
    natbox.counters_reply.trunk_drops["untagged"] = 7
    (found,) = await rig.status()
    assert (found["address"], found["state"], found["uplink_addresses"]) == ("10.9.0.9", "up", ["203.0.113.1/24"])
    assert (found["alarms"], found["trunk_drops"]) == (["demo/cluster is near its limit"], {"untagged": 7})
    (network,) = found["networks"]
    assert {key: network[key] for key in ("cluster", "network", "vid", "external", "out_packets", "connections")} == {
        "cluster": "demo",
        "network": "cluster",
        "vid": 100,
        "external": "203.0.113.7",
        "out_packets": 5,
        "connections": 2,
    }
    assert (network["drops"], network["connections_max"]) == ({"spoofed source": 3}, 9)


async def test_every_natbox_is_told_and_one_that_is_away_hides_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add("10.9.0.9", "blue", "demo")
    away = rig.add("10.9.0.8", "green")

    async def fail(*_: object) -> None:
        raise CaasError(Code.UNREACHABLE, "natbox: no answer")

    monkeypatch.setattr(away, "counters", fail)
    assert [(one["address"], one["state"]) for one in await rig.status()] == [
        ("10.9.0.8", "unreachable"),
        ("10.9.0.9", "up"),
    ]
    assert [one["address"] for one in await rig.status("10.9.0.9")] == ["10.9.0.9"]


async def test_explain_asks_the_only_one_or_the_named_one(rig: Rig) -> None:
    with pytest.raises(CaasError, match="no cluster of this coordinator has a NATBox"):
        await rig.explain()
    natbox = rig.add("10.9.0.9", "demo")
    natbox.explain_reply = natbox_pb2.NatBoxExplainReply(verdict="passes", cluster="demo", steps=["a", "b"])
    document = await rig.explain()
    assert (document["verdict"], document["steps"], document["natbox"]) == ("passes", ["a", "b"], "10.9.0.9")
    assert document["packet"] == "vid 100 192.168.10.50 to 203.0.113.254 icmp"
    assert natbox.asked == [PACKET]
    other = rig.add("10.9.0.8", "blue")
    with pytest.raises(CaasError, match=r"several NATBoxes: 10\.9\.0\.8, 10\.9\.0\.9") as caught:
        await rig.explain()
    assert caught.value.code is Code.INVALID
    await rig.explain("10.9.0.8")
    assert other.asked == [PACKET]
    rig.fleet.pair = ("10.9.0.9", "10.9.0.8")
    assert (await rig.explain())["natbox"] == "10.9.0.8", "they are one"
    assert len(await rig.status()) == 1
