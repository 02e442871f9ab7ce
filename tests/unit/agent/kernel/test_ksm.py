"""The machine's KSM: on while an agent wants it, and afterwards as it was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.kernel.ksm import Merging
from proto.errors import CaasError, Code

FOUND = {"run": "0", "pages_to_scan": "100", "sleep_millisecs": "200"}
SET = {"run": "1", "pages_to_scan": "4000", "sleep_millisecs": "20"}


class Machine:
    """A folder in place of /sys/kernel/mm/ksm, and one in place of /run."""

    def __init__(self, folder: Path) -> None:
        self.ksm, self.run, self._folder = folder / "ksm", folder / "run", folder
        self.ksm.mkdir()
        self.run.mkdir()
        self.put(**FOUND)

    def put(self, **values: str) -> None:
        for name, value in values.items():
            (self.ksm / name).write_text(f"{value}\n")

    @property
    def values(self) -> dict[str, str]:
        return {path.name: path.read_text().strip() for path in self.ksm.iterdir()}

    def agent(self, name: str) -> Merging:
        (self._folder / name).mkdir(exist_ok=True)
        return Merging(self._folder / name, folder=self.run / "caas" / "ksm", ksm=self.ksm)

    def lose(self, name: str) -> None:
        (self._folder / name).rmdir()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_turns_it_on_and_the_last_puts_back_what_was_there(machine: Machine) -> None:
    first, second = machine.agent("first"), machine.agent("second")
    first.hold()
    assert machine.values == SET
    second.hold()
    first.release()
    assert machine.values == SET
    second.release()
    assert machine.values == FOUND
    assert not any(machine.run.iterdir())


def test_a_new_process_of_the_same_agent_takes_over(machine: Machine) -> None:
    machine.agent("one").hold()
    again = machine.agent("one")
    again.hold()
    again.release()
    assert machine.values == FOUND


def test_what_another_runs_is_not_disturbed(machine: Machine) -> None:
    machine.put(run="1")
    theirs = machine.values
    agent = machine.agent("one")
    agent.hold()
    assert machine.values == theirs
    agent.release()
    assert machine.values == theirs
    assert not any(machine.run.iterdir())


def test_what_another_has_changed_since_is_not_put_back(machine: Machine) -> None:
    agent = machine.agent("one")
    agent.hold()
    machine.put(pages_to_scan="77")
    agent.release()
    assert machine.values == {**FOUND, "pages_to_scan": "77"}


def test_an_agent_that_died_between_writing_down_and_setting_is_continued(machine: Machine) -> None:
    machine.agent("one").hold()
    machine.put(**FOUND)  # as after a crash before the first write; what was found is written down
    machine.agent("one").hold()
    assert machine.values == SET
    machine.agent("one").release()
    assert machine.values == FOUND


def test_an_agent_whose_state_is_gone_wants_nothing(machine: Machine) -> None:
    machine.agent("one").hold()
    machine.agent("other").sweep()
    assert machine.values == SET
    machine.lose("one")
    machine.agent("other").sweep()
    assert machine.values == FOUND
    assert not any(machine.run.iterdir())


def test_who_never_wanted_it_writes_nothing(machine: Machine) -> None:
    machine.agent("one").release()
    machine.agent("one").sweep()
    assert machine.values == FOUND
    assert not any(machine.run.iterdir())


def test_what_cannot_be_written_is_named(machine: Machine) -> None:
    (machine.ksm / "pages_to_scan").unlink()
    with pytest.raises(CaasError, match="pages_to_scan: No such file") as caught:
        machine.agent("one").hold()
    assert caught.value.code is Code.FAILED


def test_a_kernel_without_ksm_lacks_it_and_the_mend_is_named(tmp_path: Path) -> None:
    (lack,) = Merging(tmp_path, folder=tmp_path / "run", ksm=tmp_path / "none").lacks()
    assert lack.what == "density high: this kernel has no KSM"
    assert "CONFIG_KSM=y" in lack.mend
    assert "density: normal" in lack.mend


def test_a_kernel_that_forgets_it_at_an_exec_lacks_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.kernel.ksm._is_inherited", lambda: False)
    (lack,) = machine.agent("one").lacks()
    assert "PR_SET_MEMORY_MERGE" in lack.what
    assert "6.7" in lack.mend
