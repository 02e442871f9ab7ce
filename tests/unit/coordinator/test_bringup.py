"""plan, up, status, verify, down over real agents' services on doors in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

import coordinator.confirming
from agent.core.doors import Passage
from agent.saved import SavedStates
from coordinator import bringup, checks, status, teardown
from coordinator.access import credentials
from coordinator.compiling import compile_cluster
from coordinator.config import Settings, load_bytes
from coordinator.confirming import Changes
from coordinator.fleet import AgentClient
from coordinator.journal import NATBOX, Journal, Record
from coordinator.progress import Progress
from coordinator.reading import read_request
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import Container, Datapath
from proto.wire import gateway_table_to_wire
from tests.support.fake_natbox import FakeNatBox
from tests.support.fleet import FakeFleet

HEAD = """\
name: demo
hosts:
  host1: {address: 10.9.0.1, trunk: eth1}
  host2: {address: 10.9.0.2, trunk: eth1}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24}
containers:
  ubuntu011: {host: host1, network: cluster, address: 192.168.10.50, roles: [controller, compute]}
"""
ONE = HEAD
SITE = Settings(agents={"host1": IPv4Address("10.9.0.1"), "host2": IPv4Address("10.9.0.2")}, localhost="host1")
TWO = HEAD + "  ubuntu012: {host: host2, network: cluster, address: 192.168.10.51, roles: [compute]}\n"


class Rig:
    def __init__(self, fleet: FakeFleet, journal: Journal) -> None:
        self.fleet, self.journal = fleet, journal
        self.events: list[pb.Event] = []
        self.on_event: Callable[[pb.Event], object] = lambda event: None

    async def up(self, text: str, **flags: bool) -> dict[str, Any]:
        self.events.clear()
        reading = await read_request(SITE, _file(text))
        allowed = {"remove": False, "restart": False, **flags}
        return await bringup.up(self.fleet, self.journal, reading, self._progress(), **allowed)  # type: ignore[arg-type]

    async def plan(self, text: str) -> dict[str, Any]:
        reading = await read_request(SITE, _file(text))
        return await bringup.plan(self.fleet, self.journal, reading)  # type: ignore[arg-type]

    async def status(self) -> dict[str, Any]:
        return await status.status(self.fleet, self.journal, "demo")  # type: ignore[arg-type]

    async def verify(self) -> dict[str, Any]:
        return await checks.verify(self.fleet, self.journal, "demo", self._progress())  # type: ignore[arg-type]

    async def down(self) -> dict[str, Any]:
        return await teardown.down(self.fleet, self.journal, "demo", self._progress())  # type: ignore[arg-type]

    def _progress(self) -> Progress:
        def emit(event: pb.Event) -> None:
            self.events.append(event)
            self.on_event(event)

        return Progress("demo", self.journal, emit)


def _file(text: str) -> pb.FileRequest:
    return pb.FileRequest(content=text.encode(), file_name="demo.yaml")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    fleet = FakeFleet(tmp_path)
    await fleet.start("host1", "host2")
    yield Rig(fleet, Journal(tmp_path / "journal.db"))
    await fleet.stop()


async def test_a_plan_is_what_up_does_and_then_there_is_nothing_to_do(rig: Rig) -> None:
    planned = await rig.plan(ONE)
    assert [(action["verb"], action["kind"]) for action in planned["hosts"]["host1"]["actions"]] == [
        ("create", "bridge"),
        ("create", "vlan"),
        ("create", "container"),
        ("start", "container"),
    ]
    assert set(planned["hosts"]) == {"host1"}
    assert rig.fleet.writes() == 0
    summary = await rig.up(ONE)
    assert [step["id"] for step in planned["steps"]] == sorted(
        summary["steps"], key=[step["id"] for step in planned["steps"]].index
    )
    assert summary["computes_up"] == 1
    assert await rig.plan(ONE) == {"hosts": {}, "natbox": [], "steps": []}


async def test_a_second_up_writes_nothing(rig: Rig) -> None:
    await rig.up(ONE)
    writes, programs = rig.fleet.writes(), len(rig.fleet.nova.programs("apply"))
    summary = await rig.up(ONE)
    assert summary["steps"] == []
    assert summary["writes"] == {"kernel": 0, "containers": 0}
    assert rig.fleet.writes() == writes
    assert len(rig.fleet.nova.programs("apply")) == programs
    assert not [event for event in rig.events if event.state == pb.Event.STARTED and event.phase == "hosts"]


async def test_adding_a_compute_touches_only_that_compute(rig: Rig) -> None:
    await rig.up(ONE)
    host1 = rig.fleet.kernels["host1"].writes, rig.fleet.containers["host1"].writes
    before = len(rig.fleet.nova.programs("apply"))
    summary = await rig.up(TWO)
    assert (rig.fleet.kernels["host1"].writes, rig.fleet.containers["host1"].writes) == host1
    assert {call.container for call in rig.fleet.nova.programs("apply")[before:]} == {"ubuntu012"}
    assert all(step.endswith(":ubuntu012") for step in summary["steps"]), summary["steps"]
    assert summary["computes_up"] == 2


async def test_removing_is_refused_with_the_list_and_done_when_allowed(rig: Rig) -> None:
    await rig.up(TWO)
    writes = rig.fleet.writes()
    with pytest.raises(CaasError, match=r"host2: delete container demo\.ubuntu012") as caught:
        await rig.up(ONE)
    assert caught.value.code is Code.REFUSED
    assert "--remove" in caught.value.hint
    assert rig.fleet.writes() == writes
    assert (await rig.status())["state"] == "up"
    await rig.up(ONE, remove=True)
    assert not rig.fleet.containers["host2"].containers
    assert not rig.fleet.kernels["host2"].things
    document = await rig.status()
    assert (document["state"], document["nova"]["computes_up"]) == ("up", 1)


async def test_renumbering_is_refused(rig: Rig) -> None:
    await rig.up(ONE)
    writes = rig.fleet.writes()
    with pytest.raises(CaasError, match=r"renumber it from 192\.168\.10\.50") as caught:
        await rig.up(ONE.replace("192.168.10.50", "192.168.10.60"))
    assert caught.value.code is Code.REFUSED
    assert rig.fleet.writes() == writes


async def test_every_host_that_is_away_is_named_and_nothing_is_changed(rig: Rig) -> None:
    away = TWO.replace("host2:", "host3:").replace("host: host2", "host: host3")
    with pytest.raises(CaasError, match="host3") as caught:
        await rig.up(away)
    assert caught.value.code is Code.UNREACHABLE
    assert rig.fleet.writes() == 0


async def test_after_a_failed_step_the_next_up_goes_on(rig: Rig) -> None:
    rig.fleet.nova.fail["cloud"] = "the API is on strike"
    with pytest.raises(CaasError, match="strike"):
        await rig.up(ONE)
    assert (await rig.status())["state"] == "failed"
    writes = rig.fleet.writes()
    await rig.up(ONE)
    assert rig.fleet.writes() == writes, "hosts were as wanted already"
    assert (await rig.status())["state"] == "up"


async def test_a_failed_host_is_as_before_and_the_other_one_is_done(rig: Rig) -> None:
    rig.fleet.containers["host2"].fail("start", "demo.ubuntu012")
    with pytest.raises(CaasError, match=r"host2: start demo\.ubuntu012: simulated"):
        await rig.up(TWO)
    assert not rig.fleet.kernels["host2"].things
    assert rig.fleet.containers["host1"].containers
    await rig.up(TWO)
    assert (await rig.status())["nova"]["computes_up"] == 2


async def test_an_interrupted_up_goes_on(rig: Rig) -> None:
    nova_began = asyncio.Event()
    rig.on_event = lambda event: nova_began.set() if event.phase == "nova" else None
    task = asyncio.create_task(rig.up(ONE))
    await nova_began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await rig.up(ONE))["computes_up"] == 1


async def test_a_lost_journal_loses_neither_secrets_nor_addresses(rig: Rig, tmp_path: Path) -> None:
    await rig.up(ONE)
    secrets = rig.fleet.secrets()
    writes = rig.fleet.writes()
    rig.journal = Journal(tmp_path / "another.db")
    summary = await rig.up(ONE)
    assert summary["steps"] == []
    assert rig.fleet.writes() == writes
    assert rig.fleet.secrets() == secrets
    assert summary["generation"] == 2


async def test_status_says_what_is_there_now(rig: Rig) -> None:
    assert (await rig.status())["state"] == "absent"
    await rig.up(TWO)
    document = await rig.status()
    assert document["state"] == "up"
    assert document["hosts"]["host1"]["datapath"] == {"vlan": "kernel", "ipip": "", "vxlan": ""}
    assert {entry["name"]: entry["state"] for entry in document["containers"]} == {
        "ubuntu011": "running",
        "ubuntu012": "running",
    }
    stopped = rig.fleet.containers["host2"]
    stopped.stop(stopped.containers["demo.ubuntu012"])
    document = await rig.status()
    assert document["state"] == "degraded"
    await rig.up(TWO)
    assert (await rig.status())["state"] == "up"


async def test_verify_names_every_pair(rig: Rig) -> None:
    await rig.up(TWO)
    document = await rig.verify()
    assert {(pair["from"], pair["to"]) for pair in document["pairs"]} == {
        ("ubuntu011", "ubuntu012"),
        ("ubuntu012", "ubuntu011"),
    }
    rig.fleet.nova.computes_up.discard("ubuntu012")
    document = await rig.verify()
    assert (document["ok"], document["problems"]) == (False, ["1 of 2 computes are not up"])


async def test_verify_goes_on_where_an_agent_is_away(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    document = await rig.verify()
    by_pair = {(pair["from"], pair["to"]): pair for pair in document["pairs"]}
    assert by_pair["ubuntu011", "ubuntu012"]["ok"]
    failed = by_pair["ubuntu012", "ubuntu011"]
    assert (failed["kind"], failed["at"]) == ("peer's agent down", "host2")
    assert failed["cause"].startswith("peer's agent down: ubuntu012 cannot be asked: host2: ")
    assert not document["ok"]
    assert any(line.startswith("ubuntu012 to ubuntu011: peer's agent down") for line in document["problems"])


async def test_verify_names_what_a_host_finds_about_itself(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.looks["host1"].lost.add("192.168.10.51")
    rig.fleet.kernels["host2"].things.pop(("vlan", "eth1.100"))
    document = await rig.verify()
    (failed,) = [pair for pair in document["pairs"] if not pair["ok"]]
    assert (failed["from"], failed["to"], failed["kind"]) == ("ubuntu011", "ubuntu012", "link down")
    assert failed["cause"] == "link down: host2: vlan eth1.100: missing"
    assert "caas up" in failed["hint"]


async def test_down_leaves_nothing_and_an_unknown_name_is_done(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.down()
    assert all(not kernel.things for kernel in rig.fleet.kernels.values())
    assert all(not containers.containers for containers in rig.fleet.containers.values())
    assert rig.journal.clusters() == []
    assert (await rig.down())["hosts"] == []


async def test_what_a_down_leaves_is_named_until_it_is_gone(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.leftovers["host1"].left = ("link lxcbr100 (caas:demo:cluster)", "cgroup /sys/fs/cgroup/x")
    with pytest.raises(CaasError) as caught:
        await rig.down()
    assert caught.value.message == (
        "host1: demo is removed, and this is left: link lxcbr100 (caas:demo:cluster); cgroup /sys/fs/cgroup/x"
    )
    assert caught.value.hint == "remove it by hand, then: caas down demo"
    rig.fleet.leftovers["host1"].left = ()
    assert (await rig.down())["hosts"] == ["host1"]
    assert (await rig.down())["hosts"] == []


async def test_a_down_that_failed_goes_on(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.containers["host2"].fail("delete", "demo.ubuntu012")
    with pytest.raises(CaasError, match="host2"):
        await rig.down()
    assert not rig.fleet.containers["host1"].containers
    await rig.down()
    assert not rig.fleet.containers["host2"].containers
    assert rig.journal.clusters() == []


async def test_a_removal_and_the_next_up_have_the_next_generations(rig: Rig) -> None:
    await rig.up(TWO)
    assert await generations(rig) == {"host1": (1, 0), "host2": (1, 0)}
    await rig.down()
    assert await generations(rig) == {"host1": (0, 2), "host2": (0, 2)}
    await rig.up(TWO)
    assert await generations(rig) == {"host1": (3, 2), "host2": (3, 2)}


async def test_a_removal_is_above_what_another_coordinator_did(rig: Rig) -> None:
    await rig.up(ONE)
    agent = rig.fleet.agent("host1", "")
    (saved,) = SavedStates(rig.fleet.folder / "host1").load().values()
    await agent.apply(replace(saved, generation=8), lambda event: None)
    await rig.down()
    assert (await generations(rig))["host1"] == (0, 9)


async def test_who_does_not_say_what_it_has_is_named_and_not_asked_to_remove_it(rig: Rig) -> None:
    await rig.up(TWO)
    await rig.fleet.stop_agent("host2")
    assert set((await rig.down())["behind"]) == {"host2"}
    assert not rig.fleet.containers["host1"].containers
    assert set(rig.journal.holders("demo")) == {"host2"}
    assert [entry.outcome for entry in rig.journal.entries("demo")[-2:]] == ["done", "put off"]
    record = rig.journal.find("demo")
    assert record
    assert (record.state, record.generation) == ("leaving", 2)


async def waiting(rig: Rig) -> dict[str, tuple[bool, bool]]:
    """Of each host: whether its network waits to be confirmed, and whether it was taken back."""
    probes = {host: await rig.fleet.agent(host, "").probe() for host in rig.fleet.kernels}
    return {host: ("demo" in probe.unconfirmed, "demo" in probe.taken_back) for host, probe in probes.items()}


async def test_what_up_changes_it_confirms(rig: Rig) -> None:
    await rig.up(TWO)
    assert await waiting(rig) == {"host1": (False, False), "host2": (False, False)}
    links = set(rig.fleet.kernels["host1"].things)
    rig.fleet.clock.advance(1000)
    assert set(rig.fleet.kernels["host1"].things) == links


async def test_what_a_coordinator_that_died_did_not_confirm_the_next_up_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Changes, "confirm", die)
        with pytest.raises(RuntimeError, match="killed"):
            await rig.up(TWO)
    assert await waiting(rig) == {"host1": (True, False), "host2": (True, False)}
    rig.fleet.clock.advance(29)
    writes = rig.fleet.writes()
    assert (await rig.up(TWO))["generation"] == 1
    assert rig.fleet.writes() == writes
    assert await waiting(rig) == {"host1": (False, False), "host2": (False, False)}


async def test_a_change_after_which_a_host_is_not_reached_is_taken_back_by_all(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.up(ONE)
    confirm = AgentClient.confirm

    async def cut_off(self: AgentClient, *words: Any, **options: Any) -> None:
        if self.host == "host2":
            raise CaasError(Code.UNREACHABLE, "host2: no route to host")
        await confirm(self, *words, **options)

    wide = TWO.replace("networks:\n", "networks:\n  more: {vlan: 101, subnet: 192.168.11.0/24}\n")
    wide += "  ubuntu013: {host: host1, network: more, address: 192.168.11.50, roles: [compute]}\n"
    with monkeypatch.context() as patch:
        patch.setattr(AgentClient, "confirm", cut_off)
        patch.setattr(coordinator.confirming, "WITHIN", 1.0)
        with pytest.raises(CaasError, match="not every host is reached after it: host2: no route") as caught:
            await rig.up(wide)
    assert caught.value.code is Code.UNVERIFIED
    assert await waiting(rig) == {"host1": (True, False), "host2": (True, False)}
    rig.fleet.clock.advance(2)
    assert await waiting(rig) == {"host1": (False, True), "host2": (False, True)}
    assert ("vlan", "eth1.100") in rig.fleet.kernels["host1"].things
    assert ("vlan", "eth1.101") not in rig.fleet.kernels["host1"].things
    assert rig.fleet.containers["host1"].containers["demo.ubuntu013"].running
    assert [key for key in rig.fleet.kernels["host2"].things if key[0] != "bridge"] == []
    assert rig.fleet.containers["host2"].containers["demo.ubuntu012"].running
    document = await rig.status()
    assert [host["taken_back"] for host in document["hosts"].values()] == [True, True]
    planned = await rig.plan(wide)
    assert [action["name"] for action in planned["hosts"]["host1"]["actions"]] == ["eth1.101"]
    assert (await rig.up(wide))["generation"] == 3
    assert ("vlan", "eth1.101") in rig.fleet.kernels["host1"].things
    assert await waiting(rig) == {"host1": (False, False), "host2": (False, False)}
    assert (await rig.status())["state"] == "up"


async def test_a_cluster_that_was_up_is_degraded_where_its_network_was_taken_back(rig: Rig) -> None:
    await rig.up(ONE)
    (saved,) = SavedStates(rig.fleet.folder / "host1").load().values()
    bare = replace(saved, generation=2, state=replace(saved.state, links=saved.state.links[:1]))
    await rig.fleet.agent("host1", "").apply(bare, lambda event: None, confirm_within=5)
    assert (await rig.status())["hosts"]["host1"]["unconfirmed"] == 5
    rig.fleet.clock.advance(5)
    assert (await rig.status())["state"] == "degraded"


async def generations(rig: Rig) -> dict[str, tuple[int, int]]:
    """Of each host: the one in force, and the one of the last removal."""
    found = {}
    for host in rig.fleet.kernels:
        probe = await rig.fleet.agent(host, "").probe()
        found[host] = (probe.generations.get("demo", 0), probe.removed.get("demo", 0))
    return found


async def test_up_after_a_down_that_failed(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.containers["host2"].fail("delete", "demo.ubuntu012")
    with pytest.raises(CaasError, match="host2"):
        await rig.down()
    await rig.up(TWO, restart=True)
    assert set(rig.fleet.containers["host2"].containers) == {"demo.ubuntu012"}
    assert rig.fleet.containers["host1"].containers


async def test_restarting_a_service_that_runs_is_refused_unless_allowed(rig: Rig) -> None:
    await rig.up(ONE)
    other = ONE + "nova: {api_workers: 2}\n"
    before = len(rig.fleet.nova.programs("apply"))
    with pytest.raises(CaasError, match="restart nova-api") as caught:
        await rig.up(other)
    assert caught.value.code is Code.REFUSED
    assert "--restart" in caught.value.hint
    assert len(rig.fleet.nova.programs("apply")) == before
    assert (await rig.up(other, restart=True))["steps"]


async def test_another_density_restarts_computes_and_waits_for_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.up(TWO)
    with pytest.raises(CaasError, match=r"host2: restart container demo\.ubuntu012 \(density high") as caught:
        await rig.up("density: high\n" + TWO)
    assert (caught.value.code, "--restart" in caught.value.hint) == (Code.REFUSED, True)

    containers, start = rig.fleet.containers["host2"], rig.fleet.containers["host2"].start

    def boot(container: Container) -> None:
        start(container)
        rig.fleet.inside["ubuntu012"].started.clear()  # its services take their time

    monkeypatch.setattr(containers, "start", boot)
    summary = await rig.up("density: high\n" + TWO, restart=True)
    assert "compute/server:ubuntu012" in summary["steps"]
    assert not [step for step in summary["steps"] if "ubuntu011" in step], summary["steps"]
    assert [one.merge for one in containers.containers.values()] == [True]
    assert await rig.plan("density: high\n" + TWO) == {"hosts": {}, "natbox": [], "steps": []}


async def test_what_cannot_be_deployed_is_refused_before_any_host_is_asked(rig: Rig) -> None:
    """A host without an address here: were it asked for, the failure would be another."""
    servers = {"type": "ExistingServers", "credentials": [{"host": "far.example.net"}]}
    document = {"type": "DevstackEngine", "local_conf": {"VIRT_DRIVER": "xen"}, "provider": servers}
    request = pb.FileRequest(content=json.dumps(document).encode(), file_name="rally.json")
    with pytest.raises(CaasError) as caught:
        await bringup.plan(rig.fleet, rig.journal, await read_request(Settings(), request))  # type: ignore[arg-type]
    assert caught.value.code is Code.UNSUPPORTED
    assert "the only compute driver is the fake one" in caught.value.message
    assert "the address of host far.example.net is not known" in caught.value.message
    assert rig.journal.clusters() == []


NO_HOST2 = ONE.replace("  host2: {address: 10.9.0.2, trunk: eth1}\n", "")


async def test_a_host_that_left_the_file_is_remembered_until_it_has_nothing(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.containers["host2"].fail("delete", "demo.ubuntu012")
    with pytest.raises(CaasError, match="host2"):
        await rig.up(NO_HOST2, remove=True)
    assert rig.fleet.containers["host2"].containers
    await rig.up(NO_HOST2, remove=True)
    assert not rig.fleet.containers["host2"].containers
    assert not rig.fleet.kernels["host2"].things
    assert set(rig.journal.holders("demo")) == {"host1"}
    assert await rig.plan(NO_HOST2) == {"hosts": {}, "natbox": [], "steps": []}


async def test_down_asks_also_a_host_that_left_the_file(rig: Rig) -> None:
    await rig.up(TWO)
    rig.fleet.containers["host2"].fail("delete", "demo.ubuntu012")
    with pytest.raises(CaasError, match="host2"):
        await rig.up(NO_HOST2, remove=True)
    await rig.down()
    assert not rig.fleet.containers["host2"].containers
    assert rig.journal.holders("demo") == {}


async def test_a_host_at_another_address_is_refused_while_it_has_something(rig: Rig) -> None:
    await rig.up(TWO)
    with pytest.raises(CaasError, match=r"host2 is at 10\.9\.0\.3 in the file") as caught:
        await rig.up(TWO.replace("10.9.0.2", "10.9.0.3"))
    assert caught.value.code is Code.REFUSED


async def test_after_a_failed_up_services_are_still_not_restarted_without_leave(rig: Rig) -> None:
    await rig.up(ONE)
    rig.fleet.containers["host2"].fail("start", "demo.ubuntu012")
    with pytest.raises(CaasError, match="simulated"):
        await rig.up(TWO)
    assert (await rig.status())["state"] == "failed"
    with pytest.raises(CaasError, match="restart nova-api"):
        await rig.up(TWO + "nova: {api_workers: 2}\n")


async def test_down_with_a_file_needs_no_journal(rig: Rig, tmp_path: Path) -> None:
    await rig.up(TWO)
    rig.journal = Journal(tmp_path / "another.db")
    assert (await rig.down())["hosts"] == []
    assert rig.fleet.containers["host1"].containers
    file = load_bytes(TWO.encode(), file="demo.yaml")
    progress = Progress("demo", rig.journal, rig.events.append)
    await teardown.down(rig.fleet, rig.journal, "demo", progress, file)  # type: ignore[arg-type]
    assert not any(containers.containers for containers in rig.fleet.containers.values())


async def test_a_lost_journal_and_lost_secrets_are_told_with_the_way_out(rig: Rig, tmp_path: Path) -> None:
    await rig.up(ONE)
    rig.journal = Journal(tmp_path / "another.db")
    rig.fleet.kept.clear()
    with pytest.raises(CaasError, match="secrets") as caught:
        await rig.up(ONE)
    assert "caas down FILE" in caught.value.hint


STACKED = json.dumps(
    {
        "type": "DevstackEngine",
        "devstack_repo": "https://example.net/devstack",
        "provider": {"type": "ExistingServers", "credentials": [{"host": "10.9.0.1"}]},
    }
)


async def _up_stacked(rig: Rig) -> dict[str, Any]:
    file = pb.FileRequest(content=STACKED.encode(), file_name="demo.json", name="demo")
    reading = await read_request(SITE, file)
    progress = Progress("demo", rig.journal, rig.events.append)
    return await bringup.up(rig.fleet, rig.journal, reading, progress, remove=False, restart=False)  # type: ignore[arg-type]


async def test_a_cluster_of_stack_sh_alone_comes_up_without_our_nova(rig: Rig) -> None:
    done = await _up_stacked(rig)
    assert sorted(done["steps"]) == [
        "cluster/secrets:devstack-host1",
        "devstack/stack:devstack-host1",
        "ssh/server:devstack-host1",
    ]
    assert done["computes_up"] == 0
    assert rig.fleet.containers["host1"].containers["demo.devstack-host1"].image == "base"
    assert (await rig.status())["state"] == "up"
    assert (await rig.verify())["ok"]
    assert (await _up_stacked(rig))["steps"] == []
    with pytest.raises(CaasError, match="devstack_repo, which caas does not know") as caught:
        credentials(rig.fleet, rig.journal, "demo", "openrc")  # type: ignore[arg-type]
    assert caught.value.code is Code.UNSUPPORTED


async def test_ssh_is_set_up_where_the_file_says_so_and_only_there(rig: Rig) -> None:
    text = TWO.replace("roles: [compute]", "roles: [compute], ssh: true")
    steps = (await rig.up(text))["steps"]
    assert [step for step in steps if step.startswith("ssh/")] == ["ssh/server:ubuntu012"]
    assert rig.fleet.containers["host2"].containers["demo.ubuntu012"].ssh
    assert not rig.fleet.containers["host1"].containers["demo.ubuntu011"].ssh
    assert await rig.plan(text) == {"hosts": {}, "natbox": [], "steps": []}
    rig.fleet.containers["host2"].containers["demo.ubuntu012"] = replace(
        rig.fleet.containers["host2"].containers["demo.ubuntu012"], ssh=None
    )
    (action,) = (await rig.plan(text))["hosts"]["host2"]["actions"]
    assert action["why"] == "its SSH keys are not its host's"
    assert (await rig.up(text))["writes"]["containers"] == 1
    assert await rig.plan(text) == {"hosts": {}, "natbox": [], "steps": []}


async def test_a_host_that_lets_nobody_in_is_told_of(rig: Rig) -> None:
    rig.fleet.containers["host2"].without_keys = "/root/.ssh/authorized_keys"
    await rig.up(TWO)
    assert not any("SSH" in event.message for event in rig.events)
    await rig.up(TWO.replace("roles: [compute]", "roles: [compute], ssh: true"))
    (note,) = (event.message for event in rig.events if "SSH" in event.message)
    assert note.startswith("warning: host2: nobody can log in")


AUTO = """\
name: demo
hosts:
  host1: {address: 10.9.0.1}
  host2: {address: 10.9.0.2}
networks:
  lan: {subnet: 10.100.1.0/24, overlay: auto}
containers:
  c1: {host: host1, network: lan, roles: [controller, compute]}
  c2: {host: host2, network: lan, roles: [compute]}
"""


async def test_the_way_between_two_hosts_is_found_kept_and_told(rig: Rig) -> None:
    for kernel in rig.fleet.kernels.values():
        kernel.able = Datapath(vlan="kernel", ipip="kernel", vxlan="kernel")
    await rig.up(AUTO)
    pair = {"a": "host1", "b": "host2", "method": "ipip", "why": "a router is between them, and protocol 4 passes"}
    assert (await rig.status())["overlay"] == [pair]
    assert [link.kind for link in rig.fleet.kernels["host1"].observe().state.links] == ["bridge", "ipip"]
    writes, generation = rig.fleet.writes(), (await rig.status())["generation"]
    for kernel in rig.fleet.kernels.values():
        kernel.passages = Passage(on_link=True, heard=())
    assert await rig.plan(AUTO) == {"hosts": {}, "natbox": [], "steps": []}
    await rig.up(AUTO)
    assert rig.fleet.writes() == writes
    assert (await rig.status())["overlay"] == [pair], "what is better now changes nothing that runs"
    assert (await rig.status())["generation"] == generation
    await rig.down()
    await rig.up(AUTO)
    assert [each["method"] for each in (await rig.status())["overlay"]] == ["direct"]
    assert [link.kind for link in rig.fleet.kernels["host1"].observe().state.links] == ["bridge"]


BEHIND = (
    HEAD.replace("/24}", "/24, gateway: 192.168.10.1}") + "natbox: {address: 10.9.0.9, trunk: eth1, uplink: eth2}\n"
)


async def test_publishing_the_api_changes_natbox_and_public_endpoints_and_nothing_else(rig: Rig) -> None:
    natbox = rig.fleet.natboxes["10.9.0.9"] = FakeNatBox("203.0.113.1/24")
    await rig.up(BEHIND)
    with pytest.raises(CaasError, match="demo: its API is not published") as caught:
        _credentials(rig, "public")
    assert (caught.value.code, caught.value.hint.startswith("add publish: api")) == (Code.INVALID, True)
    inside, writes, programs = _credentials(rig), rig.fleet.writes(), len(rig.fleet.nova.programs("apply"))
    planned = await rig.plan(BEHIND + "publish: {api: 18000}\n")
    assert [step["id"] for step in planned["steps"]] == ["keystone/public:ubuntu011"]
    assert (planned["hosts"], len(planned["natbox"])) == ({}, 1)
    summary = await rig.up(BEHIND + "publish: {api: 18000}\n")
    assert summary["steps"] == ["keystone/public:ubuntu011"]
    assert [one.port for one in natbox.tables["demo"].gateways[0].publications] == [18000, 18001, 18002, 18003, 18004]
    assert (rig.fleet.writes(), len(rig.fleet.nova.programs("apply"))) == (writes, programs)
    natbox.counters_reply.counters.add(vid=100, network="cluster", out_packets=5, connections=2, connections_max=9)
    (counters,) = (await rig.status())["natbox"]["counters"]
    assert {key: counters[key] for key in ("vid", "network", "out_packets", "connections", "connections_max")} == {
        "vid": 100,
        "network": "cluster",
        "out_packets": 5,
        "connections": 2,
        "connections_max": 9,
    }
    outside = _credentials(rig, "public")
    assert "OS_AUTH_URL='http://203.0.113.1:18000/v3'" in outside["text"]
    assert outside["reachable_from"] == "203.0.113.1"
    assert _credentials(rig) == inside
    assert await rig.plan(BEHIND + "publish: {api: 18000}\n") == {"hosts": {}, "natbox": [], "steps": []}
    assert (await rig.up(BEHIND))["steps"] == ["keystone/public:ubuntu011"]
    with pytest.raises(CaasError, match="demo: its API is not published"):
        _credentials(rig, "public")


def _credentials(rig: Rig, interface: str = "internal") -> dict[str, Any]:
    return credentials(rig.fleet, rig.journal, "demo", "openrc", interface)  # type: ignore[arg-type]


async def test_what_another_cluster_publishes_is_refused_before_any_host_is_asked(rig: Rig) -> None:
    """Without agents: were one asked, the failure would be another."""
    published = BEHIND + "publish: api\n"
    blue = compile_cluster(load_bytes(published.replace("name: demo", "name: blue").encode(), file="blue.yaml"))
    assert blue.natbox is not None
    table = json_format.MessageToDict(gateway_table_to_wire(blue.natbox))
    record = Record(
        name="blue",
        state="up",
        generation=1,
        file_name="",
        file=b"",
        remembered=json.dumps({"hosts": {}, "natbox": table}),
        secrets="",
    )
    rig.journal.save(record)
    rig.journal.hold("blue", {NATBOX: "10.9.0.9"})
    await rig.fleet.stop_agent("host1")
    with pytest.raises(CaasError, match=r"demo\.yaml:10: publish: cluster blue publishes tcp port 5000"):
        await rig.up(published)
