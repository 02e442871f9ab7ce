"""Kill after kill: a command is given, a daemon or its machine dies in it, comes back, and the command is given again.

Every round begins with the end of the one before: the cluster is brought up with one kill, and taken down with
another. After the same command again everything must be as after a run in which nobody was killed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from tests.support.killing import judge
from tests.support.killing.lab import COORDINATOR, HOSTS, NATBOX, KillLab, machine_of
from tests.support.killing.table import Kill, Row

#: Two hosts and NATBox: a VLAN of all three, and a routed network with a tunnel between the hosts.
FILE = """
name: killed
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
  host2: {address: 192.168.2.26, trunk: eth1}
natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}
networks:
  flat: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}
  routed: {subnet: 10.100.1.0/24, overlay: ipip}
containers:
  v1: {host: host1, network: flat, address: 192.168.10.50, roles: [controller]}
  v2: {host: host2, network: flat, address: 192.168.10.51, roles: [compute]}
  r1: {host: host1, network: routed, address: 10.100.1.2, roles: [compute]}
  r2: {host: host2, network: routed, address: 10.100.2.2, roles: [compute]}
"""
CLUSTER = "killed"
#: Who must reach whom in the end: host and container, and the address.
PINGS = (("host1", "v1", "192.168.10.51"), ("host2", "v2", "192.168.10.1"), ("host1", "r1", "10.100.2.2"))
DAEMONS = (*(f"agent.{host}" for host in HOSTS), *(f"worker.{host}" for host in HOSTS), NATBOX, COORDINATOR)
VERBS = ("up", "down")
#: Seconds until what the kernel does by itself (a carrier, a namespace that goes) is done.
SETTLE = 8.0
#: Command, daemon, whether its machine loses its power.
SAMPLE = (
    ("up", "agent.host2", True),
    ("up", NATBOX, False),
    ("down", "worker.host1", False),
    ("down", COORDINATOR, False),
)
#: Every so many kills of a daemon, its machine loses its power as well.
POWER_EVERY = 6


class Campaign:
    """Kills in one lab, which is up already."""

    def __init__(self, lab: KillLab, folder: Path, logs: Path | None = None) -> None:
        """With *logs*, a folder there has what the daemons said in each kill that left something."""
        self._lab, self._logs = lab, logs
        self.file = folder / f"{CLUSTER}.yaml"
        self.file.write_text(FILE)
        self.points: dict[tuple[str, str], list[str]] = {}
        self._wanted = {"down": judge.take(lab)}
        self.has_begun = False

    def count(self) -> None:
        """Both commands with nobody killed: which points there are, and what must be there after each."""
        if not self.has_begun:
            for verb in VERBS:
                self.give(verb)
        self._wanted["down"] = judge.take(self._lab)
        for verb in VERBS:
            self._lab.count(*DAEMONS)
            self.give(verb)
            self._lab.disarm()
            for where in DAEMONS:
                self.points[verb, where] = self._lab.reached(where)
            if verb == "up":
                self._check_pings()
                time.sleep(1.0)  # what comes up by itself is up
                self._wanted["up"] = judge.take(self._lab)
        left = judge.wait_same(self._wanted["down"], self._lab, seconds=SETTLE)
        assert not left, f"down leaves something though nobody was killed:\n{left}"

    def all_kills(self) -> Iterator[Kill]:
        """Each point once, the first and the last of those with one name; and every so many with the power lost."""
        number = 0
        for (verb, where), reached in self.points.items():
            for what in dict.fromkeys(reached):
                for nth in sorted({1, reached.count(what)}):
                    yield Kill(verb=verb, where=where, what=what, nth=nth)
                    number += 1
                    if number % POWER_EVERY == 0 and not where.startswith("worker"):
                        yield Kill(verb=verb, where=where, what=what, nth=nth, power=True)

    def sample(self) -> Iterator[Kill]:
        """One of each kind of daemon, in the middle of its work; a host also loses its power."""
        for verb, where, power in SAMPLE:
            reached = self.points[verb, where]
            yield Kill(verb=verb, where=where, what=reached[len(reached) // 2], nth=1, power=power)

    def play(self, kills: Iterable[Kill]) -> Iterator[Row]:
        """Each of *kills*, bring-ups and tear-downs in turn."""
        by_verb: dict[str, list[Kill]] = {verb: [] for verb in VERBS}
        for kill in kills:
            by_verb[kill.verb].append(kill)
        for pair in zip_longest(*by_verb.values()):
            for verb, kill in zip(VERBS, pair, strict=True):
                if kill is None:
                    self.give(verb)
                else:
                    yield self._play(kill)

    def _play(self, kill: Kill) -> Row:
        self._lab.kill_at(kill.where, kill.what, kill.nth)
        self.give(kill.verb, check=False)
        self._lab.disarm()
        killed = self._lab.was_killed(kill.where)
        began = time.monotonic()
        try:
            if kill.power:
                self._lab.lose_power(machine_of(kill.where))
            if not kill.where.startswith("worker"):  # its agent starts another one
                self._lab.up()
            self.give(kill.verb)
            residue = judge.wait_same(self._wanted[kill.verb], self._lab, seconds=SETTLE)
            if kill.verb == "up" and not residue:
                self._check_pings()
        except AssertionError as exc:
            residue = str(exc)
        seconds = time.monotonic() - began
        if residue:
            if self._logs is not None:
                self._lab.keep_logs(self._logs / re.sub(r"\W+", "-", str(kill)))
            self._start_over(kill.verb)
        return Row(kill=kill, killed=killed, seconds=seconds, residue=residue)

    def _start_over(self, verb: str) -> None:
        """A lab as new, in the state in which the next kill expects it."""
        self._lab.renew()
        for each in ("up", "down", *(("up",) if verb == "up" else ())):
            self.give(each)

    def give(self, verb: str, *, check: bool = True) -> None:
        """`caas up` or `caas down`; with *check* it must end well."""
        # What is made once and stays (a folder, the number of a removal) is no residue of a kill.
        self.has_begun = self.has_begun or verb == "down"
        words = ("up", str(self.file), "--remove", "--restart") if verb == "up" else ("down", CLUSTER)
        self._lab.user.caas(*words, status=0 if check else None)

    def _check_pings(self) -> None:
        for host, name, address in PINGS:
            pid = judge.running(self._lab, host)[f"{CLUSTER}.{name}"]
            said = judge.ping(pid, address)
            assert not said, f"{name} does not reach {address}: {said}"
