"""Clones come after their sources: what is sent first, which steps wait, and a whole bring-up of a Rally file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from coordinator import bringup
from coordinator.compiling import compile_cluster
from coordinator.config import Host, Settings, Surroundings, load_bytes
from coordinator.journal import Journal
from coordinator.progress import Progress
from coordinator.reading import Reading, read_request
from coordinator.staging import at_generation, find_new_clones, steps_before, without_clones
from coordinator.steps import Step
from proto import coordinator_pb2 as pb
from proto import types_pb2
from proto.errors import CaasError
from tests.support.fleet import FakeFleet

SITE = Settings(agents={"host1": IPv4Address("10.9.0.1")}, localhost="host1")
MAP = {"ubuntu": "debian:bookworm"}


def _document(computes: int) -> bytes:
    servers = {"type": "ExistingServers", "credentials": [{"user": "root", "host": "localhost"}]}
    document = {
        "type": "MultihostEngine",
        "controller": {
            "type": "DevstackEngine",
            "localrc": {"ENABLED_SERVICES+": ",-n-cpu", "VIRT_DRIVER": "fake"},
            "provider": {
                "type": "LxcProvider",
                "containers_per_host": 1,
                "container_name_prefix": "controller",
                "distribution": "ubuntu",
                "start_lxc_network": "10.100.9.0/24",
                "host_provider": servers,
            },
        },
        "nodes": [
            {
                "type": "LxcEngine",
                "distribution": "ubuntu",
                "container_name": "compute",
                "nodes_per_server": computes,
                "start_lxc_network": "10.100.1.0/24",
                "provider": servers,
                "engine": {
                    "name": "DevstackEngine",
                    "localrc": {
                        "VIRT_DRIVER": "fake",
                        "ENABLED_SERVICES": "n-cpu,n-net",
                        "MYSQL_HOST": "{controller_ip}",
                    },
                },
            }
        ],
    }
    return json.dumps(document).encode()


CLONES = [f"compute-10-100-1-0-{number:03}" for number in range(1, 4)]
SOURCE = "compute-10-100-1-0-000"


def _compiled(computes: int = 4) -> Any:
    around = Surroundings(distributions=MAP, localhost=Host(name="host1", address=IPv4Address("10.9.0.1")))
    return compile_cluster(load_bytes(_document(computes), file="rally.json", surroundings=around))


def test_only_clones_that_are_to_be_made_are_new() -> None:
    compiled = _compiled()
    listed = [
        types_pb2.Action(verb="create", kind="container", name=f"rally.{SOURCE}"),
        types_pb2.Action(verb="create", kind="container", name=f"rally.{CLONES[0]}"),
        types_pb2.Action(verb="start", kind="container", name=f"rally.{CLONES[1]}"),
        types_pb2.Action(verb="create", kind="bridge", name=f"rally.{CLONES[2]}"),
    ]
    assert find_new_clones(compiled, {"host1": listed}) == {CLONES[0]}


def test_a_host_without_its_new_clones_keeps_everything_else() -> None:
    compiled = at_generation(_compiled(), 7)
    first = without_clones(compiled, {CLONES[0]}, generation=6)
    (host,) = first.values()
    names = {container.hostname for container in host.state.containers}
    assert host.generation == 6
    assert {CLONES[1], CLONES[2], SOURCE} < names
    assert CLONES[0] not in names
    assert host.state.links == compiled.hosts["host1"].state.links
    assert compiled.hosts["host1"].generation == 7
    assert without_clones(compiled, set(), generation=6) == {}


@dataclass
class FakeStep:
    id: str
    needs: frozenset[str] = frozenset()
    title: str = ""

    async def done(self) -> bool:
        return False

    async def run(self) -> None: ...

    async def undo(self) -> None: ...


def test_what_needs_a_clone_waits_for_it() -> None:
    steps: list[Step] = [
        FakeStep("compute/server:first"),
        FakeStep("compute/server:second"),
        FakeStep("verify/up:second", frozenset({"compute/server:second"})),
        FakeStep("verify/all:controller", frozenset({"verify/up:second", "compute/server:first"})),
        FakeStep("keystone/api:controller"),
    ]
    assert [step.id for step in steps_before(steps, {"second"})] == ["compute/server:first", "keystone/api:controller"]


class Rig:
    def __init__(self, fleet: FakeFleet, journal: Journal) -> None:
        self.fleet, self.journal = fleet, journal
        self.events: list[pb.Event] = []

    async def read(self, computes: int) -> Reading:
        request = pb.FileRequest(content=_document(computes), file_name="rally.json", distributions=MAP)
        return await read_request(SITE, request)

    async def up(self, computes: int) -> dict[str, Any]:
        self.events.clear()
        progress = Progress("rally", self.journal, self.events.append)
        reading = await self.read(computes)
        return await bringup.up(self.fleet, self.journal, reading, progress, remove=False, restart=False)  # type: ignore[arg-type]

    async def plan(self, computes: int) -> dict[str, Any]:
        return await bringup.plan(self.fleet, self.journal, await self.read(computes))  # type: ignore[arg-type]

    def ended(self) -> list[str]:
        return [event.id for event in self.events if event.state == pb.Event.DONE]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    fleet = FakeFleet(tmp_path)
    await fleet.start("host1")
    journal = Journal(tmp_path / "journal.db")
    yield Rig(fleet, journal)
    await fleet.stop()
    journal.close()


async def test_a_rally_file_comes_up_sources_first(rig: Rig) -> None:
    summary = await rig.up(4)
    ended = rig.ended()
    assert summary["computes_up"] == 4
    assert ended.index("apply:host1:sources") < ended.index(f"compute/server:{SOURCE}") < ended.index("apply:host1")
    assert all(ended.index("apply:host1") < ended.index(f"compute/server:{name}") for name in CLONES)
    assert await rig.plan(4) == {"hosts": {}, "natbox": [], "steps": []}
    assert (await rig.up(4))["writes"] == {"kernel": 0, "containers": 0}


async def test_more_clones_leave_what_runs_alone(rig: Rig) -> None:
    await rig.up(2)
    before = dict(rig.fleet.containers["host1"].containers)
    await rig.up(4)
    after = rig.fleet.containers["host1"].containers
    assert len(after) == len(before) + 2
    assert {name: found.running for name, found in before.items()} == dict.fromkeys(before, True)


async def test_an_interrupt_between_the_stages_is_gone_on_from(rig: Rig) -> None:
    rig.fleet.containers["host1"].fail("create", f"rally.{CLONES[1]}")
    with pytest.raises(CaasError):
        await rig.up(4)
    assert f"rally.{SOURCE}" in rig.fleet.containers["host1"].containers
    assert (await rig.up(4))["computes_up"] == 4
    assert await rig.plan(4) == {"hosts": {}, "natbox": [], "steps": []}
