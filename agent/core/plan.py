"""The difference between desired and observed, as an ordered plan. Pure: no clock, no log, no kernel.

Order: stop and delete containers; delete what they used, from the top down; create links from the bottom up,
addresses, routes, rules, translation; create containers, clones after what they are made from; start them. Names
freed by a deletion are free for a creation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from ipaddress import IPv4Address

from agent.core.clones import clone_depths
from agent.core.doors import ForeignLink
from proto.errors import CaasError, Code
from proto.marks import HOST
from proto.model import (
    Action,
    Address,
    Bridge,
    Container,
    Gateway,
    GatewayPath,
    HostState,
    Ipip,
    Nic,
    Plan,
    Route,
    Rule,
    Thing,
    Verb,
    Vlan,
    Vxlan,
)

#: The name of a link, or an address: what others stand on.
Footing = str | IPv4Address

#: Bottom first: each may stand on what comes before it.
_ORDER = ("bridge", "vlan", "ipip", "vxlan", "address", "route", "rule", "masquerade", "forward", "container")


def make_plan(desired: HostState, observed: HostState, foreign: Mapping[str, ForeignLink]) -> Plan:
    """What makes *observed* into *desired*. Empty exactly where nothing is to be done.

    Raises NOT_OWNED where a link without our mark has the name of one of ours, NOT_FOUND for a missing parent,
    REFUSED where a container would have to be moved or renumbered; what clone_depths raises.
    """
    wanted, seen = _by_identity(desired), _by_identity(observed)
    deletions: list[Action] = []
    creations: list[Action] = []
    gone = _find_gone(wanted, seen)
    for identity, thing in seen.items():
        if identity not in wanted:
            deletions += _removal(thing, "not desired")
    for identity, thing in wanted.items():
        before = seen.get(identity)
        if before is None:
            creations += _creation(thing, "missing")
        elif isinstance(thing, Container) and isinstance(before, Container):
            creations += _container_change(before, thing, foreign)
        elif before != thing or _lost_footing(before, gone):
            if why := _must_replace(before, thing) or _lost_footing(before, gone):
                deletions.append(Action(verb=Verb.DELETE, before=before, after=None, why=why))
                creations.append(Action(verb=Verb.CREATE, before=None, after=thing, why=why))
            else:
                creations.append(Action(verb=Verb.CHANGE, before=before, after=thing, why=_difference(before, thing)))
    depths = clone_depths(*_split_containers(wanted, seen))
    creations.sort(key=lambda action: (*_creation_rank(action), depths.get(action.name, 0)))
    plan = (*sorted(deletions, key=_deletion_rank), *creations)
    _check_names(plan, foreign)
    _check_parents(plan, desired, foreign)
    return plan


def make_inverse(done: Sequence[Action]) -> Plan:
    """What takes *done*, some first actions of a plan, back. What was changed comes last, from the bottom up: it may
    have stood on what has to be made again first."""
    changes = [action for action in done if action.verb in (Verb.CHANGE, Verb.RESTART)]
    others = [action for action in reversed(done) if action not in changes]
    return tuple(action.inverse() for action in (*others, *changes))


def scope(state: HostState, cluster: str, *, desired: HostState, others: HostState) -> HostState:
    """What of *state* a plan for *cluster* may look at: what is its own, with the addresses and routes on its links,
    and of what clusters share (their mark is HOST's) what *desired* has or nobody needs.

    *others* is what all other clusters want here: what is shared and only theirs is left out, so that it is neither
    mended nor removed for *cluster*; what no one wants goes with the next plan of whichever cluster.
    """
    hosts = {link.name: link.mark.cluster for link in state.links}
    theirs = _by_identity(others).keys() - _by_identity(desired).keys()

    def is_in(thing: Thing) -> bool:
        owner = _owner(thing, hosts)
        return owner == cluster or (owner == HOST and _identity(thing) not in theirs)

    return HostState(
        links=tuple(filter(is_in, state.links)),
        addresses=tuple(filter(is_in, state.addresses)),
        routes=tuple(filter(is_in, state.routes)),
        rules=tuple(filter(is_in, state.rules)),
        masquerades=tuple(filter(is_in, state.masquerades)),
        forwards=tuple(filter(is_in, state.forwards)),
        containers=tuple(filter(is_in, state.containers)),
    )


def _owner(thing: Thing, owners: Mapping[str, str]) -> str:
    """Whose *thing* is: a cluster's, HOST's where clusters share it, or "" for what stands on a link of others.

    *owners* has those of the links. A rule, and a route by a link of the host's own, has no mark: its addresses say
    whose it is, so whoever wants it has it.
    """
    match thing:
        case Address():
            return owners.get(thing.link, "")
        case Route():
            return owners.get(thing.dev, "") if thing.dev else HOST
        case Rule():
            return HOST
        case Gateway() | GatewayPath():
            return ""
        case _:
            return thing.mark.cluster


def _by_identity(state: HostState) -> dict[tuple[str, str], Thing]:
    groups: tuple[Iterable[Thing], ...] = (
        state.links,
        state.addresses,
        state.routes,
        state.rules,
        state.masquerades,
        state.forwards,
        state.containers,
    )
    return {_identity(thing): thing for group in groups for thing in group}


def _identity(thing: Thing) -> tuple[str, str]:
    return ("link" if isinstance(thing, Bridge | Vlan | Ipip | Vxlan) else thing.kind, thing.name)


def _split_containers(
    wanted: Mapping[tuple[str, str], Thing], seen: Mapping[tuple[str, str], Thing]
) -> tuple[dict[str, Container], dict[str, Container]]:
    """The containers that are wanted, by name: those to be made, and those that are there, as they are."""
    creating, standing = {}, {}
    for identity, thing in wanted.items():
        if isinstance(thing, Container):
            before = seen.get(identity)
            if isinstance(before, Container):
                standing[thing.name] = before
            else:
                creating[thing.name] = thing
    return creating, standing


def _creation(thing: Thing, why: str) -> list[Action]:
    if isinstance(thing, Container):
        why = f"{why}; cloned from {thing.clone_of}" if thing.clone_of else why
        stopped = replace(thing, running=False)
        actions = [Action(verb=Verb.CREATE, before=None, after=stopped, why=why)]
        if thing.running:
            actions.append(Action(verb=Verb.START, before=stopped, after=thing, why="it should run"))
        return actions
    return [Action(verb=Verb.CREATE, before=None, after=thing, why=why)]


def _removal(thing: Thing, why: str) -> list[Action]:
    if isinstance(thing, Container) and thing.running:
        stopped = replace(thing, running=False)
        return [
            Action(verb=Verb.STOP, before=thing, after=stopped, why=why),
            Action(verb=Verb.DELETE, before=stopped, after=None, why=why),
        ]
    return [Action(verb=Verb.DELETE, before=thing, after=None, why=why)]


def _must_replace(before: Thing, after: Thing) -> str:
    """Why *before* cannot become *after* in place; "" where it can."""
    if before.kind != after.kind:
        return f"it is a {before.kind}"
    if isinstance(before, Vlan) and isinstance(after, Vlan):
        if before.vid != after.vid:
            return f"it has VID {before.vid}, not {after.vid}"
        if before.parent != after.parent:
            return f"it is on {before.parent}, not {after.parent}"
    # The kernel removes it with the address: it could not be changed back once that is gone.
    if isinstance(before, Route) and isinstance(after, Route) and before.src != after.src:
        return f"it sends from {before.src or 'any address'}, not {after.src or 'any'}"
    return ""


def _difference(before: Thing | Nic, after: Thing | Nic) -> str:
    """The attributes that differ, as text: "mtu 1500 -> 1480"."""
    names = [field.name for field in fields(after) if getattr(before, field.name, None) != getattr(after, field.name)]
    return ", ".join(f"{name} {getattr(before, name, None)} -> {getattr(after, name)}" for name in names)


def _find_gone(wanted: Mapping[tuple[str, str], Thing], seen: Mapping[tuple[str, str], Thing]) -> set[Footing]:
    """What is removed, if only to be made anew, and others may stand on."""
    below = [(thing, wanted.get(identity), _footings_of(thing)) for identity, thing in seen.items()]
    below = [each for each in below if each[2]]  # links and addresses, of which there are few
    gone: set[Footing] = set()
    while True:
        more: set[Footing] = set()
        for thing, after, footings in below:
            if after is None or _must_replace(thing, after) or _lost_footing(thing, gone):
                more |= footings
        if more <= gone:
            return gone
        gone |= more


def _footings_of(thing: Thing) -> set[Footing]:
    """What others may stand on and lose with *thing*: the kernel removes them with it."""
    match thing:
        case Bridge() | Vlan() | Ipip() | Vxlan():
            return {thing.name}
        case Address():
            return {thing.address.ip}
        case _:
            return set()


def _lost_footing(thing: Thing, gone: AbstractSet[Footing]) -> str:
    """Why *thing* goes with what is *gone*; "" where it stays."""
    if not gone:
        return ""
    footings: tuple[Footing | None, ...] = ()
    match thing:
        case Address():
            footings = (thing.link,)
        case Route():
            footings = (thing.dev, thing.src)
        case Vlan():
            footings = (thing.parent, thing.master)
    return next((f"it goes with {footing}" for footing in footings if footing in gone), "")


def _container_change(before: Container, after: Container, foreign: Mapping[str, ForeignLink]) -> list[Action]:
    """Its image and what it was cloned from were decided when it was made, and do not matter any more."""
    after = replace(after, image=before.image, clone_of=before.clone_of)
    if before.nic.address != after.nic.address or before.nic.mac != after.nic.mac:
        raise CaasError(
            Code.REFUSED,
            f"container {after.name}: it has {before.nic.address} ({before.nic.mac}), and {after.nic.address} "
            f"({after.nic.mac}) is wanted: a container is never renumbered",
            hint="give it its old address back, or take it out of the file, run `caas up --remove`, and add it again",
        )
    actions: list[Action] = []
    current = before
    if before.nic != after.nic:
        why = f"its port has to change: {_difference(before.nic, after.nic)}"
        changed = replace(after, running=before.running)
        verb = Verb.RESTART if before.running else Verb.CHANGE
        actions.append(Action(verb=verb, before=before, after=changed, why=why))
        current = changed
    elif before.merge != after.merge:
        # Both are inherited from whoever starts a process: there is no taking them back.
        why = f"density {'high' if after.merge else 'normal'}: whether pages are merged is decided when it starts"
        changed = replace(after, running=before.running)
        actions.append(
            Action(verb=Verb.RESTART if before.running else Verb.CHANGE, before=before, after=changed, why=why)
        )
        current = changed
    elif replace(before, running=after.running) != after:
        changed = replace(after, running=before.running)
        actions.append(Action(verb=Verb.CHANGE, before=before, after=changed, why=_why_changed(before, after)))
        current = changed
    elif before.running and after.running and before.nic.port in foreign:
        actions.append(Action(verb=Verb.CHANGE, before=before, after=after, why=f"{before.nic.port} lost its mark"))
    if current.running != after.running:
        verb, why = (Verb.START, "it should run") if after.running else (Verb.STOP, "it should not run")
        actions.append(Action(verb=verb, before=current, after=after, why=why))
    return actions


def _why_changed(before: Container, after: Container) -> str:
    names = [name for name in ("hosts", "roles") if getattr(before, name) != getattr(after, name)]
    found = [f"{', '.join(names)} differ"] if names else []
    if before.ssh != after.ssh:
        found.append("its SSH keys are not its host's" if after.ssh else "nobody is to log in by SSH")
    return "; ".join(found)


def _deletion_rank(action: Action) -> tuple[int, int]:
    return (-_ORDER.index(action.kind), 0 if action.verb is Verb.STOP else 1)


def _creation_rank(action: Action) -> tuple[int, int]:
    return (_ORDER.index(action.kind), 1 if action.verb is Verb.START else 0)


def _check_names(plan: Plan, foreign: Mapping[str, ForeignLink]) -> None:
    for action in plan:
        names: tuple[str, ...] = ()
        if action.verb is Verb.CREATE and isinstance(action.after, Bridge | Vlan | Ipip | Vxlan):
            names = (action.after.name,)
        elif action.verb is Verb.CREATE and isinstance(action.after, Container):
            names = (action.after.nic.port,)
        for name in names:
            if found := foreign.get(name):
                raise CaasError(
                    Code.NOT_OWNED,
                    f"{action.kind} {action.name}: a {found.kind or 'link'} named {name} exists and is not ours",
                    hint=f"if nothing needs it: `ip link del {name}`; else choose another VID or name",
                )


def _check_parents(plan: Plan, desired: HostState, foreign: Mapping[str, ForeignLink]) -> None:
    ours = {link.name for link in desired.links}
    for action in plan:
        thing = action.after
        if action.verb is Verb.CREATE and isinstance(thing, Vlan) and thing.parent not in foreign.keys() | ours:
            raise CaasError(
                Code.NOT_FOUND,
                f"vlan {thing.name}: its parent {thing.parent} does not exist",
                hint="name the host's trunk port in the cluster file: `ip link` lists what there is",
            )
