"""Which hosts are asked how they are, and what becomes of those that do not answer."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Settings
from coordinator.doctor import examine
from coordinator.journal import Journal, Record
from proto.agent_pb2 import DoctorReply
from proto.errors import CaasError, Code

SETTINGS = Settings(agents={"host1": IPv4Address("192.0.2.1"), "host9": IPv4Address("192.0.2.9")})


class FakeFleet:
    """Its agents complain of what `wrong` says of them, and are away where it says nothing."""

    def __init__(self, **wrong: list[str]) -> None:
        self.wrong = wrong
        self.asked: dict[str, str] = {}

    def agent(self, host: str, address: str) -> Any:
        self.asked[host] = address
        return FakeAgent(self.wrong.get(host))


class FakeAgent:
    def __init__(self, wrong: list[str] | None) -> None:
        self.wrong = wrong

    async def doctor(self) -> list[DoctorReply.Complaint]:
        if self.wrong is None:
            raise CaasError(Code.UNREACHABLE, "it does not answer")
        return [DoctorReply.Complaint(what=what, why="y", mend="m") for what in self.wrong]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


async def ask(fleet: FakeFleet, journal: Journal, name: str = "", settings: Settings = SETTINGS) -> dict[str, Any]:
    return await examine(fleet, journal, settings, name)  # type: ignore[arg-type]


async def test_every_known_host_is_asked_or_the_one_that_is_named(journal: Journal) -> None:
    fleet = FakeFleet(host1=[], host9=[])
    assert (await ask(fleet, journal))["ok"]
    assert fleet.asked == {"host1": "192.0.2.1", "host9": "192.0.2.9"}
    fleet = FakeFleet(host1=[], host9=[])
    assert list((await ask(fleet, journal, "host9"))["hosts"]) == ["host9"]
    assert fleet.asked == {"host9": "192.0.2.9"}


async def test_what_is_wrong_is_told_and_who_is_away(journal: Journal) -> None:
    found = await ask(FakeFleet(host1=["w"]), journal)
    assert not found["ok"]
    assert found["hosts"]["host1"] == {"agent": "up", "findings": [{"what": "w", "why": "y", "mend": "m"}]}
    assert found["hosts"]["host9"] == {"agent": Code.UNREACHABLE.value, "message": "it does not answer", "findings": []}
    assert not (await ask(FakeFleet(host9=[]), journal))["ok"]


@pytest.mark.parametrize(
    ("settings", "words"), [(SETTINGS, "known hosts: host1, host9"), (Settings(), "no host is known")]
)
async def test_who_is_not_known_is_not_asked(journal: Journal, settings: Settings, words: str) -> None:
    fleet = FakeFleet()
    with pytest.raises(CaasError, match=words) as caught:
        await ask(fleet, journal, "nobody", settings)
    assert caught.value.code is Code.NOT_FOUND
    assert fleet.asked == {}


async def test_a_cluster_s_hosts_are_known_too(journal: Journal) -> None:
    text = b"""
name: demo
hosts: {host2: {address: 192.0.2.2, trunk: eth1}}
networks: {lan: {vlan: 100, subnet: 10.8.0.0/24}}
containers: {a: {host: host2, network: lan, address: 10.8.0.2, roles: [controller, compute]}}
"""
    record = {"state": "up", "generation": 1, "file_name": "demo.yaml", "file": text, "remembered": "{}", "secrets": ""}
    journal.save(Record(name="demo", **record))  # type: ignore[arg-type]
    fleet = FakeFleet(host1=[], host2=[], host9=[])
    assert list((await ask(fleet, journal, "demo"))["hosts"]) == ["host2"]
    assert fleet.asked == {"host2": "192.0.2.2"}
    assert set((await ask(fleet, journal))["hosts"]) == {"host1", "host2", "host9"}
