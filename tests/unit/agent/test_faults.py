"""Every scenario once for every write of it that can fail, by an error or by kill -9 of the agent.

How many writes there are is counted in a run without a failure, so that a new one is tried without anyone adding it.
"""

from __future__ import annotations

import functools

import pytest

from proto.errors import CaasError
from tests.support.faults import Crash, Fault
from tests.support.scenarios import SCENARIOS, Machine, Scenario, Shape, applying, destroying, restoring, waiting

ERRORS = (Fault.ERROR_BEFORE, Fault.ERROR_AFTER)
CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)


@functools.cache
def without_failure(name: str) -> tuple[int, Shape]:
    """How many writes the scenario has, and what the host is then."""
    machine = SCENARIOS[name].prepare()
    SCENARIOS[name].run(machine.host)
    return len(machine.faults.done), machine.shape()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "at" in metafunc.fixturenames:
        cases = [(name, at) for name in SCENARIOS for at in range(1, without_failure(name)[0] + 1)]
        metafunc.parametrize(("name", "at"), cases)


def fail(machine: Machine, scenario: Scenario, at: int, fault: Fault) -> None:
    machine.faults.arm(at, fault)
    if fault in CRASHES:
        with pytest.raises(Crash):
            scenario.run(machine.host)
    elif scenario.run in (restoring, waiting):
        scenario.run(machine.host)  # it tells the log
    else:
        with pytest.raises(CaasError, match="simulated"):
            scenario.run(machine.host)
    assert machine.faults.reached, "the failure was never reached"


def gone_from(machine: Machine, before: Shape) -> set[str]:
    """Containers that were there. Their files are gone for good, so it must be those that were to go."""
    gone = {one.name for one in before.containers} - set(machine.containers.containers)
    assert gone <= {what.removeprefix("delete ") for what in machine.faults.done}
    return gone


@pytest.mark.parametrize("fault", ERRORS, ids=lambda fault: fault.value)
def test_after_an_error_the_host_is_as_found_and_a_retry_converges(name: str, at: int, fault: Fault) -> None:
    scenario = SCENARIOS[name]
    machine = scenario.prepare()
    before, foreign = machine.shape(), machine.foreign()
    fail(machine, scenario, at, fault)
    machine.faults.revive()
    as_found = before.without(gone_from(machine, before))
    found = machine.shape()
    if scenario.run is waiting:
        assert machine.pending() == [], "it was tried again"
    elif scenario.run is restoring:
        assert found.saved == before.saved
    elif machine.faults.reached.startswith(("forget", "save removals")):
        assert found.things == without_failure(name)[1].things, "all was gone already, and nobody makes it again"
    else:
        assert (found.things, found.containers, found.ports) == (as_found.things, as_found.containers, as_found.ports)
        if not name.startswith("destroy"):  # what was to go is to go at the next start, too
            assert found.saved == as_found.saved
        if name.startswith("a change that"):
            assert found.waiting == before.waiting
    assert machine.foreign() == foreign
    converge(machine, scenario, name)


@pytest.mark.parametrize("again", ["restored", "asked again", "power lost"])
@pytest.mark.parametrize("fault", CRASHES, ids=lambda fault: fault.value)
def test_after_kill_9_the_next_agent_converges(name: str, at: int, fault: Fault, again: str) -> None:
    scenario = SCENARIOS[name]
    machine = scenario.prepare()
    foreign = machine.foreign()
    fail(machine, scenario, at, fault)
    if again == "power lost":
        machine.lose_power()
    machine.start_agent()
    if again != "asked again" or scenario.run is waiting:  # who waits has been started
        machine.host.restore()
        assert machine.pending() == [], "it is not as saved"
        assert machine.foreign() == foreign
    converge(machine, scenario, name)


def converge(machine: Machine, scenario: Scenario, name: str) -> None:
    """The same call again: the same end as without a failure, nothing more to do; and all can be taken away."""
    scenario.run(machine.host)
    assert machine.shape() == without_failure(name)[1]
    assert machine.pending() == []
    writes = len(machine.faults.done)
    scenario.run(machine.host)
    assert machine.faults.done[writes:] == [], "asked for once more, it writes"
    for one in machine.shape().saved:
        destroying(one.cluster)(machine.host)
    left = machine.shape()
    assert left == Shape(things=frozenset(), containers=frozenset(), ports=frozenset(), saved=frozenset())
    assert machine.foreign() == {"eth1"}


def test_a_second_agent_over_the_same_host_writes_nothing() -> None:
    machine = Machine()
    for one in without_failure("first routed cluster")[1].saved:
        applying(one)(machine.host)
    writes = len(machine.faults.done)
    machine.start_agent().restore()
    assert machine.faults.done[writes:] == []
