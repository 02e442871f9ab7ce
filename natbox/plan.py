"""The difference between the VLANs that should be and those that are. Pure: no clock, no log, no kernel.

Order: VLANs that go, the shared path, VLANs that change, VLANs that come; the path goes last of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from natbox.doors import SeenGateway, SeenPath
from proto.model import Action, Gateway, GatewayPath, Plan, Verb


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
    return (*gone, *laying, *changes, *new, *lifting)


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
        reasons.append("half made, or for another MAC of the trunk")
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
    return ", ".join(reasons)
