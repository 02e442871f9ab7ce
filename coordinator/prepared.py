"""A bring-up before its first change: what was found, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coordinator.compiling import Compiled
from coordinator.config import ClusterFile
from coordinator.fleet import AgentShell
from coordinator.journal import Record
from coordinator.preflight import NATBOX, Actions
from coordinator.steps import Step
from coordinator.survey import Survey
from proto.model import ClusterHost, Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and what follows from it: nothing has been changed yet.

    `clones` are those that are to be made; `first` has their hosts as they are to be before that. `make_steps` makes
    the steps anew, which have seen nothing yet; `make_all_steps` also those that wait for hosts that are away.
    `actions` are the hosts' own plans, `assumed` what those that are away will have to do, as far as that can be told
    without them. `newer` are hosts with a newer generation than the journal's.
    """

    file: ClusterFile
    record: Record
    survey: Survey
    compiled: Compiled
    actions: Actions
    assumed: Actions
    behind: tuple[str, ...]
    steps: tuple[Step, ...]
    make_steps: Callable[[], tuple[Step, ...]]
    make_all_steps: Callable[[], tuple[Step, ...]]
    api_shell: AgentShell
    clones: frozenset[str] = frozenset()
    first: Mapping[str, ClusterHost] = field(default_factory=dict)
    newer: Mapping[str, int] = field(default_factory=dict)

    def steps_on_hosts(self) -> tuple[Step, ...]:
        """The steps once the hosts are as desired: what was seen in a container before it was started is old."""
        listed = [action for actions in self.actions.values() for action in actions]
        created = {action.name for action in listed if action.verb == Verb.CREATE.value}
        started = {action.name for action in listed if action.verb in (Verb.START.value, Verb.RESTART.value)}
        return self.make_steps() if started - created else self.steps

    @property
    def host_names(self) -> tuple[str, ...]:
        """Those that something has to be sent to: pending actions, or an older generation. None that is away."""
        names = (name for name in self.compiled.hosts if not self.survey.hosts[name].away)
        return tuple(name for name in names if self.actions.get(name) or name in self.behind)

    @property
    def natbox_pending(self) -> bool:
        """Whether something has to be sent to NATBox."""
        if self.compiled.natbox is None or self.survey.natbox_away:
            return False
        return bool(self.actions.get(NATBOX) or NATBOX in self.behind)
