"""The difference between the VLANs that should be and those that are. Pure: no clock, no log, no kernel.

Order: VLANs that go, the shared path, VLANs that change, VLANs that come; the path goes last of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from natbox.doors import SeenGateway, SeenPath
from natbox.tables import list_claims
from proto.model import Action, Gateway, GatewayPath, OwnAddress, Plan, Publication, Verb


def make_plan(
    desired: Sequence[Gateway],
    seen: Mapping[int, SeenGateway],
    *,
    path: GatewayPath,
    seen_path: SeenPath,
    path_is_wanted: bool,
) -> Plan:
    """What makes the VLANs *seen* into those *desired*. Empty exactly where nothing is to be done."""
    wanted = {gateway.vid: gateway for gateway in desired}
    gone = [
        Action(verb=Verb.DELETE, before=found.gateway, after=None, why="not desired")
        for vid, found in sorted(seen.items())
        if vid not in wanted
    ]
    changes = [
        Action(verb=Verb.CHANGE, before=seen[vid].gateway, after=gateway, why=why)
        for vid, gateway in sorted(wanted.items())
        if vid in seen and (why := _difference(seen[vid], gateway))
    ]
    new = [
        Action(verb=Verb.CREATE, before=None, after=gateway, why="missing")
        for vid, gateway in sorted(wanted.items())
        if vid not in seen
    ]
    laying = _lay(path, seen_path) if path_is_wanted else []
    lifting = [] if path_is_wanted else _lift(path, seen_path)
    return (*gone, *laying, *_givers_first(changes), *new, *lifting)


def _givers_first(changes: Sequence[Action]) -> list[Action]:
    """A port or address that moves from one network of the cluster to another is given up before it is taken.

    Where two exchange theirs there is no such order, and the second is refused: it takes two steps.
    """
    left, ordered = list(changes), []
    while left:
        chosen = next((one for one in left if not _waits(one, left)), left[0])
        left.remove(chosen)
        ordered.append(chosen)
    return ordered


def _waits(change: Action, others: Sequence[Action]) -> bool:
    taken = _claims(change.after) - _claims(change.before)
    return any(taken & _claims(other.before) for other in others if other is not change)


def _claims(thing: object) -> set[str]:
    return {claim.what for claim in list_claims(thing) if not claim.shared} if isinstance(thing, Gateway) else set()


def _lay(path: GatewayPath, seen: SeenPath) -> list[Action]:
    if not seen.missing:
        return []
    if not seen.there:
        return [Action(verb=Verb.CREATE, before=None, after=path, why="missing")]
    return [Action(verb=Verb.CHANGE, before=path, after=path, why=f"missing: {', '.join(seen.missing)}")]


def _lift(path: GatewayPath, seen: SeenPath) -> list[Action]:
    return [Action(verb=Verb.DELETE, before=path, after=None, why="no cluster is left")] if seen.there else []


def _difference(seen: SeenGateway, wanted: Gateway) -> str:
    """Why the VLAN has to change; "" where it is as wanted."""
    found = seen.gateway
    reasons = []
    if not seen.intact:
        reasons.append("half made, changed by somebody else, or for another MAC of the trunk")
    if found.name != wanted.name:
        reasons.append(f"name {found.name} -> {wanted.name}")
    if found.gateway != wanted.gateway:
        reasons.append(f"gateway {found.gateway} -> {wanted.gateway}")
    before = {near.address: near.mac for near in found.neighbours}
    after = {near.address: near.mac for near in wanted.neighbours}
    reasons += [f"neighbour {address} missing" for address in sorted(after.keys() - before.keys())]
    reasons += [f"neighbour {address} not desired" for address in sorted(before.keys() - after.keys())]
    reasons += [
        f"neighbour {address} has {before[address]}, not {after[address]}"
        for address in sorted(before.keys() & after.keys())
        if before[address] != after[address]
    ]
    return ", ".join(reasons + _door_differences(found, wanted))


def _door_differences(found: Gateway, wanted: Gateway) -> list[str]:
    """In the ways out of the VLAN and into it."""
    reasons = []
    if found.external != wanted.external:
        names = (str(each or "the uplink's address") for each in (found.external, wanted.external))
        reasons.append(f"external {' -> '.join(names)}")
    if found.limits != wanted.limits:
        numbers = (f"{each.connections}, {each.connections_per_second}/s" for each in (found.limits, wanted.limits))
        reasons.append(f"limits {' -> '.join(numbers)}")
    before = {_name_publication(one) for one in found.publications}
    before |= {_name_own_address(own) for own in found.own_addresses}
    after = {_name_publication(one) for one in wanted.publications}
    after |= {_name_own_address(own) for own in wanted.own_addresses}
    reasons += [f"{what} missing" for what in sorted(after - before)]
    reasons += [f"{what} not desired" for what in sorted(before - after)]
    return reasons


def _name_publication(one: Publication) -> str:
    return f"publication {one.protocol} {one.port} to {one.to}:{one.to_port}"


def _name_own_address(own: OwnAddress) -> str:
    return f"address {own.external} of {own.address}"
