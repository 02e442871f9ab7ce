"""The kernel's door for looking only: bursts from containers' namespaces, and what the kernel says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.doors import Question
from agent.kernel.burst import Asker, run_burst
from agent.kernel.examine import Examiner
from proto.model import Finding, HostState


class KernelLook:
    """LookDoor for the namespace that the process lives in, or for *netns* (tests)."""

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns
        self._examiner = Examiner(netns=netns)

    def burst(
        self, questions: Sequence[Question], pids: Mapping[str, int], *, settle: float, seconds: float
    ) -> dict[str, Any]:
        askers = [
            Asker(
                hostname=one.hostname,
                netns=f"/proc/{pids[one.hostname]}/ns/net",
                address=one.address,
                mtu=one.mtu,
                targets=one.targets,
                askers=one.askers,
            )
            for one in questions
        ]
        return run_burst(askers, settle=settle, seconds=seconds, netns=self._netns)

    def examine(self, desired: HostState) -> Sequence[Finding]:
        return self._examiner.look(desired)
