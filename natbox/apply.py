"""Act on a plan with an undo stack, then look again: success means that the kernel says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from natbox.doors import GatewayDoor
from proto.errors import CaasError, Code
from proto.model import Action, Gateway, GatewayPath, Plan, Verb

log = logging.getLogger(__name__)


def apply(
    door: GatewayDoor,
    look: Callable[[], Plan],
    *,
    on_plan: Callable[[Plan], None],
    on_done: Callable[[Action], None],
) -> Plan:
    """Do what *look* says is pending; returns what was done.

    On a failure everything done so far is taken back (the connections of a removed VLAN stay ended) and the first
    error is raised. UNVERIFIED where all went well and something is still pending.
    """
    plan = look()
    on_plan(plan)
    if not plan:
        return plan
    with ExitStack() as undo:
        for action in plan:
            # Put on the stack first: a half-done action is taken back, too. Its inverse copes with nothing to undo.
            undo.callback(_take_back, door, action)
            perform(door, action)
            on_done(action)
        if left := look():
            raise CaasError(
                Code.UNVERIFIED,
                "applied, but NATBox still needs: " + "; ".join(map(str, left)),
                hint="something else changes these objects: see `ip monitor`, `nft monitor` and other daemons",
            )
        undo.pop_all()
    return plan


def perform(door: GatewayDoor, action: Action) -> None:
    """Do *action*."""
    before, after = action.before, action.after
    if isinstance(action.thing, GatewayPath):
        if action.verb is Verb.DELETE:
            door.lift_path()
        else:
            door.lay_path()
    elif isinstance(after, Gateway) and action.verb is Verb.CREATE:
        door.create(after)
    elif isinstance(before, Gateway) and isinstance(after, Gateway) and action.verb is Verb.CHANGE:
        door.change(before, after)
    elif isinstance(before, Gateway) and action.verb is Verb.DELETE:
        door.delete(before)
    else:
        raise CaasError(Code.FAILED, f"{action}: no such action for a {action.kind}")


def _take_back(door: GatewayDoor, action: Action) -> None:
    """Best effort: a failure here is logged and never replaces the first error."""
    inverse = action.inverse()
    try:
        perform(door, inverse)
    except Exception as exc:
        log.warning("%s: %s", inverse, exc)
