"""Addresses, MACs and MTUs: chosen deterministically, and never again for what has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from ipaddress import IPv4Address, IPv4Network

from coordinator.compiling.facts import MTU_ASSUMED, Facts, HostFacts, Remembered
from coordinator.config import ClusterFile, VlanNetwork
from coordinator.config.problem import Report
from proto.model.network import MTU_MAX, MTU_MIN


def allocate_addresses(file: ClusterFile, remembered: Remembered, report: Report) -> dict[str, IPv4Address]:
    """The address of each container: the file's, else the remembered one, else the lowest free one of its network."""
    chosen: dict[str, IPv4Address] = {}
    taken: dict[IPv4Address | None, str] = {
        file.networks[spec.network].gateway_on(spec.host): f"the gateway of {spec.network}"
        for spec in file.containers.values()
    }
    for name, spec in file.containers.items():
        if spec.address is not None:
            chosen[name] = spec.address
            taken[spec.address] = name
    for name, spec in file.containers.items():
        placed = remembered.containers.get(name)
        if spec.address is not None or placed is None:
            continue
        address = placed.container.nic.address.ip
        if address not in file.networks[spec.network].subnet_on(spec.host):
            continue  # its network changed: refused as a renumbering once a new address is chosen
        if other := taken.get(address):
            message = f"{address} is what running container {name} was given"
            where = ("containers", other, "address")
            report.add(file.place(*where), ".".join(where), message, hint="choose another address")
        chosen[name] = address
        taken[address] = name
    leaving = {
        placed.container.nic.address.ip for name, placed in remembered.containers.items() if name not in file.containers
    }
    free: dict[IPv4Network, _Free] = {}
    for name, spec in file.containers.items():
        if name not in chosen:
            subnet = file.networks[spec.network].subnet_on(spec.host)
            chosen[name] = free.setdefault(subnet, _Free(subnet, taken, leaving)).take()
    return chosen


class _Free:
    """The free addresses of a subnet, lowest first. The file was checked: there is room.

    Those of containers that are about to be removed come last: they may run a little longer than the new ones wait.
    """

    def __init__(self, subnet: IPv4Network, taken: Mapping[IPv4Address | None, str], leaving: Set[IPv4Address]) -> None:
        self._taken = taken
        self._leaving = leaving
        self._next = subnet.network_address
        self._end = subnet.broadcast_address
        self._last = sorted(address for address in leaving if address in subnet and address not in taken)

    def take(self) -> IPv4Address:
        self._next += 1
        while self._next in self._taken or self._next in self._leaving:
            self._next += 1
        return self._next if self._next < self._end else self._last.pop(0)


def allocate_macs(file: ClusterFile, remembered: Remembered) -> dict[str, str]:
    """The MAC of each container: the remembered one, else 02 and 40 bits of the hash of cluster and name.

    02 is locally administered and not multicast (IEEE 802: bits 1 and 0 of the first octet). Two names of one hash
    get different MACs: the later one of the file is hashed again with a counter.
    """
    chosen = {
        name: remembered.containers[name].container.nic.mac for name in file.containers if name in remembered.containers
    }
    taken = set(chosen.values())
    for name in file.containers:
        if name in chosen:
            continue
        attempt = 0
        while (mac := _make_mac(file.name, name, attempt)) in taken:
            attempt += 1
        chosen[name] = mac
        taken.add(mac)
    return chosen


def _make_mac(cluster: str, container: str, attempt: int) -> str:
    digest = hashlib.sha256(f"{cluster}\0{container}\0{attempt}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest[:5]))


def choose_mtus(file: ClusterFile, facts: Facts | None, remembered: Remembered, report: Report) -> dict[str, int]:
    """The MTU of each VLAN network: what its containers have, else the lowest of the trunks it is on.

    An 802.1Q subinterface may be as large as its parent: the tag is not counted (Linux, vlan_dev_change_mtu).
    """
    hosts: dict[str, dict[str, None]] = {name: {} for name in file.vlans}
    running: dict[str, int] = {}
    for name, spec in file.containers.items():
        if spec.network not in hosts:
            continue
        hosts[spec.network][spec.host] = None
        if placed := remembered.containers.get(name):
            running.setdefault(spec.network, placed.container.nic.mtu)
    trunks = _trunk_mtus(file, facts, report)
    mtus = {}
    for name, network in file.vlans.items():
        ways = [host for host in hosts[name] if host in trunks]
        if network.gateway is not None and "" in trunks:
            ways.append("")
        lowest = min(ways, key=lambda way: trunks[way], default=None)
        mtus[name] = running.get(name, MTU_ASSUMED if lowest is None else trunks[lowest])
        if lowest is not None and trunks[lowest] < mtus[name]:
            _report_low(file, network, report, lowest=lowest, has=trunks[lowest], needs=mtus[name])
    return mtus


def _report_low(file: ClusterFile, network: VlanNetwork, report: Report, *, lowest: str, has: int, needs: int) -> None:
    path = ("hosts", lowest, "trunk") if lowest else ("natbox", "trunk")
    trunk = file.hosts[lowest].trunk if lowest else file.natbox.trunk if file.natbox else ""
    message = f"{trunk} has MTU {has}, but the containers of network {network.name} run with {needs}"
    report.add(file.place(*path), ".".join(path), message, hint=f"there: ip link set {trunk} mtu {needs}")


def _trunk_mtus(file: ClusterFile, facts: Facts | None, report: Report) -> dict[str, int]:
    """The MTU of each host's trunk that is known and used, by host; NATBox's by ""."""
    if facts is None:
        return {}
    found = {}
    used = {spec.host for spec in file.containers.values() if spec.network in file.vlans}
    for name, host in file.hosts.items():
        if name in used and name in facts.hosts:
            mtu = _link_mtu(facts.hosts[name], host.trunk, ("hosts", name, "trunk"), file, report)
            if mtu:
                found[name] = mtu
    if file.natbox and facts.natbox:
        mtu = _link_mtu(facts.natbox, file.natbox.trunk, ("natbox", "trunk"), file, report)
        if mtu:
            found[""] = mtu
    return found


def _link_mtu(facts: HostFacts, link: str, path: tuple[str, ...], file: ClusterFile, report: Report) -> int | None:
    mtu = facts.links.get(link)
    if mtu is None:
        hint = f"it has {', '.join(sorted(facts.links)) or 'none'}"
        report.add(file.place(*path), ".".join(path), f"there is no link {link!r} on it", hint=hint)
    elif not MTU_MIN <= mtu <= MTU_MAX:
        message = f"{link} has MTU {mtu}; within {MTU_MIN}..{MTU_MAX} is needed"
        report.add(file.place(*path), ".".join(path), message)
        return None
    return mtu
