"""Every step of every service of nova: the coordinator is killed before, in and after it, the agent in it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.demonstration import CAAS, ROOT
from tests.support.killing.lab import COORDINATOR, KillLab
from tests.support.killing.points import WITHIN
from tests.support.killing.table import Kill, Row

FILE, CLUSTER, HOST = "examples/demo.yaml", "demo", "host1"
AGENT = f"agent.{HOST}"
#: Bring-ups of which each goes on through many kills. What ran beside a step that was killed may be done afterwards,
#: and is killed in the next one.
TRIES = 6
_PATIENCE = 600.0


class NovaCampaign:
    """Kills in the bring-up of `examples/demo.yaml`, in a lab that is up already."""

    def __init__(self, lab: KillLab, logs: Path | None = None) -> None:
        """With *logs*, a folder there has what the daemons said where a bring-up that nobody cut off failed."""
        self._lab, self._logs = lab, logs
        self._said = ""

    def kills(self) -> list[Kill]:
        """Before each step, in it and after it, as they come in a bring-up in which nobody is killed; its host's agent
        in it, too."""
        steps = {step["id"] for step in self._lab.user.document("plan", FILE, "--json")["steps"]}
        self._lab.count(COORDINATOR)
        self._lab.user.caas("up", FILE)
        self._lab.disarm()
        self._lab.user.caas("down", CLUSTER)
        found = []
        for what in dict.fromkeys(self._lab.reached(COORDINATOR)):
            if steps & set(what.split()):
                found += [Kill(verb="up", where=AGENT, what=what, nth=1)] * what.startswith(WITHIN)
                found.append(Kill(verb="up", where=COORDINATOR, what=what, nth=1))
        return found

    def play(self, kills: Sequence[Kill]) -> Iterator[Row]:
        """Each of *kills* that is reached within TRIES bring-ups; then those that were not."""
        left = list(kills)
        for _ in range(TRIES):
            if not left:
                return
            while (row := self._play(left)) is not None:
                left.remove(row.kill)
                yield row
            yield self._look_at_whole()
            self._lab.user.caas("down", CLUSTER)
        yield from (Row(kill=kill, killed=False, seconds=0.0, residue="") for kill in left)

    def _play(self, left: Sequence[Kill]) -> Row | None:
        """One `caas up`, and the first of *left* that it comes to; None where it ended without."""
        of_agent = {kill.what for kill in left if kill.where == AGENT}
        of_coordinator = {kill.what for kill in left if kill.where == COORDINATOR} - of_agent
        self._lab.kill_at_first(COORDINATOR, of_coordinator, tell=of_agent)
        argv, environment = [*CAAS, "up", FILE], self._lab.user.environment
        with (
            tempfile.TemporaryFile("w+") as said,
            subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=said) as command,
        ):
            try:
                end = time.monotonic() + _PATIENCE
                while command.poll() is None and not self._lab.was_killed(COORDINATOR):
                    assert time.monotonic() < end, f"`caas up` does not end; {len(left)} kills were left"
                    time.sleep(0.02)
                what, began = self._lab.killed_at(COORDINATOR), time.monotonic()
                if what in of_agent:
                    self._lab.kill_agent(HOST)
                command.wait(_PATIENCE)
            finally:
                command.kill()
            said.seek(0)
            self._said = said.read() if command.returncode and not what else ""
        self._lab.disarm()
        self._lab.up()
        if not what:
            return None
        where = AGENT if what in of_agent else COORDINATOR
        kill = next(kill for kill in left if (kill.where, kill.what) == (where, what))
        return Row(kill=kill, killed=True, seconds=time.monotonic() - began, residue="")

    def _look_at_whole(self) -> Row:
        """After all kills: the same command once more, and a cloud that nobody could tell from another."""
        began, residue = time.monotonic(), self._said
        try:
            self._check_whole()
        except AssertionError as exc:
            residue += str(exc)
        if residue and self._logs is not None:
            self._lab.keep_logs(self._logs / f"whole-{time.time():.0f}")
        whole = Kill(verb="up", where="nova", what="all of the above", nth=1)
        return Row(kill=whole, killed=True, seconds=time.monotonic() - began, residue=residue)

    def _check_whole(self) -> None:
        self._lab.user.caas("up", FILE)
        assert self._lab.user.document("plan", FILE, "--json") == {"hosts": {}, "natbox": [], "steps": []}
        assert self._lab.user.document("status", CLUSTER, "--json")["nova"]["computes_up"] == 1
        self._lab.user.caas("test", CLUSTER)
