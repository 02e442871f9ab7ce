"""Every step of every service of nova once: the coordinator is killed before, in and after it, the agent in it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from tests.support.demonstration import CAAS, ROOT
from tests.support.killing.campaign import Kill, Row
from tests.support.killing.lab import COORDINATOR, KillLab
from tests.support.killing.points import begin_of, end_of, within

FILE, CLUSTER, HOST = "examples/demo.yaml", "demo", "host1"
#: Bring-ups of which each goes on through many kills. What ran beside a step that was killed is done afterwards, and
#: is killed in the next one.
TRIES = 4
_PATIENCE = 600.0


class NovaCampaign:
    """Kills in the bring-up of `examples/demo.yaml`, in a lab that is up already."""

    def __init__(self, lab: KillLab) -> None:
        self._lab = lab

    def steps(self) -> list[str]:
        """The ids of all steps, from the plan: in the order of their needs."""
        found = self._lab.user.document("plan", FILE, "--json")["steps"]
        return [step["id"] for step in found]

    def kills(self, steps: Sequence[str]) -> list[Kill]:
        """Before each step, in it and after it; and its host's agent in it."""
        found = []
        for step in steps:
            agent = f"agent.{HOST}"
            places = ((COORDINATOR, begin_of), (agent, within), (COORDINATOR, within), (COORDINATOR, end_of))
            found += [Kill(verb="up", where=where, what=point(step), nth=1) for where, point in places]
        return found

    def play(self, kills: Sequence[Kill]) -> Iterator[Row]:
        """Each of *kills* that is reached within TRIES bring-ups; then those that were not."""
        left = list(kills)
        for _ in range(TRIES):
            missed = []
            for kill in left:
                row = self._play(kill)
                if row.killed:
                    yield row
                else:
                    missed.append(kill)
            left = missed
            yield self._look_at_whole()
            self._lab.user.caas("down", CLUSTER)
            if not left:
                return
        yield from (Row(kill=kill, killed=False, seconds=0.0, residue="") for kill in left)

    def _play(self, kill: Kill) -> Row:
        is_agent = kill.where != COORDINATOR
        arm = self._lab.tell_at if is_agent else self._lab.kill_at
        arm(COORDINATOR, kill.what, kill.nth)
        argv = [*CAAS, "up", FILE]
        with subprocess.Popen(
            argv, cwd=ROOT, env=self._lab.user.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as command:
            end = time.monotonic() + _PATIENCE
            while command.poll() is None and not self._lab.was_killed(COORDINATOR):
                assert time.monotonic() < end, f"{kill}: `caas up` does not end"
                time.sleep(0.02)
            killed = self._lab.was_killed(COORDINATOR)
            began = time.monotonic()
            if killed and is_agent:
                self._lab.kill_agent(HOST)
            command.wait(_PATIENCE)
        self._lab.disarm()
        self._lab.up()
        return Row(kill=kill, killed=killed, seconds=time.monotonic() - began, residue="")

    def _look_at_whole(self) -> Row:
        """After all kills: the same command once more, and a cloud that nobody could tell from another."""
        began, residue = time.monotonic(), ""
        try:
            self._check_whole()
        except AssertionError as exc:
            residue = str(exc)
        whole = Kill(verb="up", where="nova", what="all of the above", nth=1)
        return Row(kill=whole, killed=True, seconds=time.monotonic() - began, residue=residue)

    def _check_whole(self) -> None:
        self._lab.user.caas("up", FILE)
        assert self._lab.user.document("plan", FILE, "--json") == {"hosts": {}, "natbox": [], "steps": []}
        assert self._lab.user.document("status", CLUSTER, "--json")["nova"]["computes_up"] == 1
        self._lab.user.caas("test", CLUSTER)
