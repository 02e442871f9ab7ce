"""What must be so when all is quiet. Reads drafts and what the fakes keep: it shares no code with the accused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from tests.support.simulation.clusters import Draft, address_of
from tests.support.simulation.machines import OWN_WAYS, UNOWNED, GatewayMachine, HostMachine


def find_unlike(draft: Draft, hosts: Mapping[str, HostMachine]) -> list[str]:
    """What *draft* says and the hosts do not have, and the other way round."""
    found = []
    for name, machine in hosts.items():
        wanted = {f"{draft.name}.{one}" for one, spec in draft.containers.items() if spec.host == name}
        there = {one for one in machine.containers.containers if one.startswith(f"{draft.name}.")}
        if wanted != there:
            found.append(f"{name}: containers {sorted(there)}, and {sorted(wanted)} are wanted")
            continue
        for one in sorted(wanted):
            found += _find_wrong(draft, one.partition(".")[2], machine)
    return found + _find_untunnelled(draft, hosts)


def _find_wrong(draft: Draft, name: str, machine: HostMachine) -> list[str]:
    spec = draft.containers[name]
    seen = machine.containers.containers[f"{draft.name}.{name}"]
    where = f"{machine.name}: {draft.name}.{name}"
    vid, things = draft.vids[spec.network], machine.kernel.things
    found = [] if seen.running else [f"{where} does not run"]
    if bool(seen.ssh) != (name in draft.ssh):
        found.append(f"{where}: ssh is {seen.ssh}")
    if ("bridge", seen.nic.bridge) not in things:
        found.append(f"{where}: its bridge {seen.nic.bridge} is not there")
    if seen.nic.port not in machine.kernel.marked:
        found.append(f"{where}: {seen.nic.port} has no mark")
    address = seen.nic.address.ip
    if spec.number and str(address) != draft.address(spec):
        found.append(f"{where} has {address}, not {draft.address(spec)}")
    first = IPv4Network(draft.subnet(spec.network))
    if address not in first and vid:
        found.append(f"{where}: {address} is not in {first}")
    if vid:
        vlan = things.get(("vlan", f"eth1.{vid}"))
        if vlan is None or (vlan.vid, vlan.parent, vlan.master) != (vid, "eth1", seen.nic.bridge):  # type: ignore[union-attr]
            found.append(f"{where}: VID {vid} does not lead to {seen.nic.bridge}: {vlan}")
    return found


def _find_untunnelled(draft: Draft, hosts: Mapping[str, HostMachine]) -> list[str]:
    """Hosts with containers of a routed network, each with a route to each other's."""
    found = []
    for network, vid in draft.vids.items():
        homes = sorted({spec.host for spec in draft.containers.values() if spec.network == network and not vid})
        for one in homes:
            routes = {str(key[1]) for key in hosts[one].kernel.things if key[0] == "route"}
            for other in homes:
                if one != other and not any(_block(draft, network, other) in route for route in routes):
                    found.append(f"{one}: no route to {_block(draft, network, other)}, which {other} has: {routes}")
                tunnel = (address_of(one), address_of(other))
                ends = {
                    (str(thing.local), str(thing.remote))  # type: ignore[union-attr]
                    for key, thing in hosts[one].kernel.things.items()
                    if key[0] == "ipip"
                }
                if one != other and tunnel not in ends and (tunnel[0], "None") not in ends:
                    found.append(f"{one}: no tunnel to {other}")
    return found


def _block(draft: Draft, network: str, host: str) -> str:
    first, second, third, _ = draft.subnet(network).split(".")
    return f"{first}.{second}.{int(third) + draft.hosts.index(host)}.0/24"


def find_not_restored(hosts: Iterable[HostMachine]) -> list[str]:
    """What an agent that has just been started has saved, and its host has not: links and running containers."""
    found = []
    for machine in hosts:
        for cluster, saved in machine.disk.load().items() if machine.is_running else ():
            links = {link.name for link in saved.state.links}
            there = {name for kind, name in machine.kernel.things if kind in ("bridge", "vlan", "ipip")}
            running = {one.name for one in machine.containers.containers.values() if one.running}
            wanted = {one.name for one in saved.state.containers if one.running}
            if links - there or wanted - running:
                found.append(f"{machine.name}: {cluster}: not restored: {sorted((links - there) | (wanted - running))}")
    return found


def find_doubles(hosts: Iterable[HostMachine]) -> list[str]:
    """Addresses and MACs that two containers have, VIDs that two links of one trunk or two clusters have."""
    found: list[str] = []
    addresses: dict[str, str] = {}
    macs: dict[str, str] = {}
    vids: dict[int, str] = {}
    for machine in hosts:
        for name, one in machine.containers.containers.items():
            for kind, seen, value in (("address", addresses, str(one.nic.address.ip)), ("MAC", macs, one.nic.mac)):
                if (other := seen.setdefault(value, name)) != name:
                    found.append(f"{kind} {value} is {name}'s and {other}'s")
        here: set[int] = set()
        for (kind, name), thing in machine.kernel.things.items():
            if kind == "vlan":
                vid, cluster = thing.vid, thing.mark.cluster  # type: ignore[union-attr]
                if vid in here:
                    found.append(f"{machine.name}: VID {vid} twice, the second time by {name}")
                here.add(vid)
                if (other := vids.setdefault(vid, cluster)) != cluster:
                    found.append(f"VID {vid} is {cluster}'s and {other}'s")
    return found


def find_of(cluster: str, hosts: Iterable[HostMachine]) -> list[str]:
    """What of *cluster* is on any of *hosts*: its containers, and links with its mark."""
    found = []
    for machine in hosts:
        found += [f"{machine.name}: {name}" for name in machine.containers.containers if name.startswith(f"{cluster}.")]
        for (kind, name), thing in machine.kernel.things.items():
            if hasattr(thing, "mark") and thing.mark.cluster == cluster:
                found.append(f"{machine.name}: {kind} {name}")
    return found


def find_unconfirmed(hosts: Iterable[HostMachine]) -> list[str]:
    """Changes that still wait, where each was to be confirmed or taken back."""
    return [
        f"{machine.name}: {cluster} waits to be confirmed"
        for machine in hosts
        for cluster in machine.disk.unconfirmed.files
    ]


def find_taken_back(hosts: Iterable[HostMachine]) -> list[str]:
    """Clusters whose network is not the one that was asked for last."""
    return [
        f"{machine.name}: {cluster} is taken back"
        for machine in hosts
        for cluster, saved in machine.disk.load().items()
        if saved.taken_back
    ]


def find_wrongly_taken_back(hosts: Iterable[HostMachine]) -> list[str]:
    """Where a change was taken back, and the host has not the links that were confirmed last."""
    found = []
    for machine in hosts:
        for cluster, saved in machine.disk.load().items():
            wanted = machine.confirmed.get(cluster, set())
            there = {
                name
                for (kind, name), thing in machine.kernel.things.items()
                if kind in OWN_WAYS and thing.mark.cluster == cluster  # type: ignore[union-attr]
            }
            if saved.taken_back and there != wanted:
                found.append(f"{machine.name}: {cluster} is taken back to {sorted(there)}, not {sorted(wanted)}")
    return found


def find_left(hosts: Iterable[HostMachine], natbox: GatewayMachine | None) -> list[str]:
    """What is there where nothing should be."""
    found = []
    for machine in hosts:
        left = [*map(" ".join, machine.kernel.things), *machine.containers.containers, *machine.disk.files]
        left += machine.disk.unconfirmed.files
        if left:
            found.append(f"{machine.name}: left after down: {', '.join(left)}")
        if set(machine.kernel.foreign) != set(UNOWNED):
            found.append(f"{machine.name}: the host's own links are {sorted(machine.kernel.foreign)}")
    if natbox and (natbox.door.vlans or natbox.door.laid or natbox.disk.files):
        found.append(f"natbox: left after down: {sorted(natbox.door.vlans)} {natbox.disk.files}")
    return found
