"""Who of this host's containers reaches whom, and what could keep them from it. Looks only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.core.doors import LookDoor, Question
from agent.core.findings import find_pending
from agent.host import Host
from proto.errors import CaasError, Code
from proto.model import Cause, Finding
from proto.names import make_lxc_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A burst's report as JSON (agent/kernel/burst_program.py), and what the tunnels dropped meanwhile, by reason."""

    report: str
    tunnel_drops: Mapping[str, int]


class Reach:
    """One host's part of `caas verify`. Blocking; call from worker threads."""

    def __init__(self, host: Host, door: LookDoor) -> None:
        self._host = host
        self._door = door

    def burst(self, cluster: str, questions: Sequence[Question], *, settle: float, seconds: float) -> Heard:
        """Ask all of *questions* at once. A container that does not run is a failure of its own in the report."""
        _, seen = self._host.observe()
        by_name = {found.container.name: found.pid for found in seen if found.pid}
        pids = {
            one.hostname: by_name[name]
            for one in questions
            if (name := make_lxc_name(cluster, one.hostname)) in by_name
        }
        running = [one for one in questions if one.hostname in pids]
        before = self._host.kernel.tunnel_drops()
        report = self._door.burst(running, pids, settle=settle, seconds=seconds)
        after = self._host.kernel.tunnel_drops()
        report["failures"] |= {one.hostname: "it does not run" for one in questions if one.hostname not in pids}
        drops = {reason: count - before.get(reason, 0) for reason, count in after.items()}
        return Heard(
            report=json.dumps(report), tunnel_drops={reason: count for reason, count in drops.items() if count > 0}
        )

    def examine(self, cluster: str) -> list[Finding]:
        """What differs from the saved state of *cluster*, what else can be a cause. NOT_FOUND where none is saved."""
        desired = self._host.saved(cluster)
        if desired is None:
            raise CaasError(Code.NOT_FOUND, f"cluster {cluster} has nothing here", hint="`caas up FILE` brings it here")
        try:
            found = list(find_pending(self._host.plan(desired), desired.state))
        except CaasError as exc:  # a name that is taken, a parent that is gone
            found = [Finding(cause=Cause.LINK_DOWN, object=cluster, text=exc.message, hint=exc.hint, crossing=False)]
        return [*found, *self._door.examine(desired.state)]
