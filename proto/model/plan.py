"""A plan: what has to be done to a host, in order, and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from proto.model.container import Container
from proto.model.gateway import Gateway, GatewayPath
from proto.model.network import Address, Bridge, Forward, Ipip, Masquerade, Route, Rule, Vlan, Vxlan

Thing = Bridge | Vlan | Ipip | Vxlan | Address | Route | Rule | Masquerade | Forward | Container | Gateway | GatewayPath


class Verb(enum.Enum):
    """What an action does. CHANGE keeps the object and what runs in it; RESTART does not keep what runs."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    START = "start"
    STOP = "stop"
    RESTART = "restart"


def kind_of(thing: Thing) -> str:
    """The word for *thing* in plans and messages: bridge, vlan, address, route, rule, masquerade, container…"""
    return thing.kind


def name_of(thing: Thing) -> str:
    """The name of *thing* among those of its kind on a host."""
    return thing.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One change. `before` is None for CREATE, `after` is None for DELETE."""

    verb: Verb
    before: Thing | None
    after: Thing | None
    why: str

    @property
    def thing(self) -> Thing:
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found

    @property
    def kind(self) -> str:
        return kind_of(self.thing)

    @property
    def name(self) -> str:
        return name_of(self.thing)

    def inverse(self) -> Action:
        """The action that takes this one back."""
        back = {
            Verb.CREATE: Verb.DELETE,
            Verb.DELETE: Verb.CREATE,
            Verb.START: Verb.STOP,
            Verb.STOP: Verb.START,
        }.get(self.verb, self.verb)
        return Action(verb=back, before=self.after, after=self.before, why=f"undo: {self.why}")

    def __str__(self) -> str:
        return f"{self.verb.value} {self.kind} {self.name}: {self.why}"


Plan = tuple[Action, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What bringing a cluster's generation into force took: changing calls to the kernel and to LXC.

    Both are 0 where nothing was pending. `left`: after a removal, what of ours is there still, a line each.
    """

    generation: int
    kernel_writes: int = 0
    container_writes: int = 0
    left: tuple[str, ...] = ()
