"""`caas logs` after a failed step: the step, the error, what to do, what its container and its host's agent say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import logs
from coordinator.journal import Journal
from coordinator.progress import Progress
from proto.errors import CaasError, Code
from tests.support.fleet import FakeFleet
from tests.unit.coordinator.test_bringup import TWO, Rig


@pytest.fixture
async def lit(tmp_path: Path) -> AsyncIterator[Rig]:
    fleet = FakeFleet(tmp_path)
    await fleet.start("host1", "host2")
    yield Rig(fleet, Journal(tmp_path / "journal.db"))
    await fleet.stop()


async def test_of_a_run_that_went_well_there_is_the_journal_alone(lit: Rig) -> None:
    await lit.up(TWO)
    document = await logs.logs(lit.fleet, lit.journal, "demo")  # type: ignore[arg-type]
    assert {entry["outcome"] for entry in document["entries"]} == {"done"}
    assert (document["failed"], document["containers"], document["agents"]) == ([], {}, {})


async def test_a_failed_step_with_its_container_and_agent(lit: Rig) -> None:
    lit.fleet.nova.fail["cloud"] = "the API is on strike"
    with pytest.raises(CaasError):
        await lit.up(TWO)
    document = await logs.logs(lit.fleet, lit.journal, "demo")  # type: ignore[arg-type]
    failed = document["failed"][0]
    assert "the API is on strike" in failed["message"]
    assert failed["step"].endswith(":ubuntu011")
    assert document["containers"]["ubuntu011"] == ["a warning of ubuntu011"]
    assert list(document["agents"]) == ["host1"]


async def test_a_failed_host_says_why_and_its_agent_what_it_did(lit: Rig) -> None:
    lit.fleet.containers["host2"].fail("start", "demo.ubuntu012")
    with pytest.raises(CaasError):
        await lit.up(TWO)
    document = await logs.logs(lit.fleet, lit.journal, "demo")  # type: ignore[arg-type]
    (failed,) = document["failed"]
    assert failed["step"] == "apply:host2"
    assert document["containers"] == {}
    (line,) = document["agents"]["host2"]
    assert "ERROR agent.host: demo: generation 1 is not in force: " in line
    assert "start demo.ubuntu012" in line


async def test_the_hint_is_in_the_journal(lit: Rig) -> None:
    progress = Progress("demo", lit.journal, lambda event: None)
    with pytest.raises(CaasError):
        async with progress.step("look", "look at hosts"):
            raise CaasError(Code.FAILED, "host1: no", hint="mend it")
    assert [(entry.message, entry.hint) for entry in lit.journal.entries("demo")] == [("host1: no", "mend it")]


async def test_an_agent_that_is_away_is_told_in_its_place(lit: Rig) -> None:
    lit.fleet.containers["host2"].fail("start", "demo.ubuntu012")
    with pytest.raises(CaasError):
        await lit.up(TWO)
    await lit.fleet.stop_agent("host2")
    document = await logs.logs(lit.fleet, lit.journal, "demo")  # type: ignore[arg-type]
    (line,) = document["agents"]["host2"]
    assert line.startswith("host2: ")
