"""Namespaces and wires of a lab: made where they are missing, never twice, removed where they carry its label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from agent.kernel.namespaces import (
    Inside,
    SeenLink,
    call_in,
    create_namespace,
    delete_namespace,
    namespace_id,
    namespace_label,
    namespace_names,
    unfinished_names,
)
from coordinator.lab.places import Places
from coordinator.lab.topology import Machine, Nic, Role, Switch, Topology, make_switch_port_name
from proto.errors import CaasError, Code

BRIDGE = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """A veth pair: this machine's NIC, and where the other end is."""

    nic: Nic
    peer: str
    peer_namespace: str
    peer_mtu: int


def build(topology: Topology, places: Places) -> int:
    """Make every namespace, switch and cable that is not there yet; returns how many namespaces were made."""
    made = sum(_build_namespace(name, places) for name in topology.namespaces)
    for switch in topology.switches.values():
        call_in(places.namespace(switch.name), partial(_build_switch, switch=switch))
    for machine in topology.machines.values():
        cables = _cables(machine, topology, places)
        call_in(places.namespace(machine.name), partial(_plug, cables=cables))
    for switch in topology.switches.values():
        call_in(places.namespace(switch.name), partial(_raise_ports, switch=switch))
    for machine in topology.machines.values():
        call_in(places.namespace(machine.name), partial(_set_up, machine=machine))
    return made


def check_free(topology: Topology, places: Places) -> None:
    """CONFLICT where a namespace that the lab needs is there and not the lab's. Changes nothing."""
    present = set(namespace_names())
    for name in topology.namespaces:
        namespace = places.namespace(name)
        if namespace in present and namespace_label(namespace) != places.label(name):
            raise CaasError(
                Code.NOT_OWNED,
                f"namespace {namespace} exists and is not of lab {places.lab}",
                hint="choose another name for the lab: caas lab up --name NAME",
            )


def owned_namespaces(places: Places) -> dict[str, str]:
    """Machine or switch -> namespace, for every namespace that carries this lab's label."""
    prefix, label = places.namespace(""), places.label("")
    owned = {}
    for namespace in namespace_names():
        if namespace.startswith(prefix) and namespace_label(namespace).startswith(label):
            owned[namespace.removeprefix(prefix)] = namespace
    return owned


def namespace_inodes(places: Places) -> dict[int, str]:
    """Inode of /proc/PID/ns/net -> namespace."""
    owned = owned_namespaces(places).values()
    return {inode: namespace for namespace in owned if (inode := namespace_id(namespace)) is not None}


def remove(places: Places, *, unfinished: frozenset[str]) -> int:
    """Delete every namespace of the lab and, of *unfinished*, names that were left without one; returns how many."""
    owned = owned_namespaces(places)
    left = [name for name in unfinished_names() if name in {places.namespace(name) for name in unfinished}]
    for namespace in (*owned.values(), *left):
        delete_namespace(namespace)
    return len(owned)


def observe(namespace: str) -> dict[str, SeenLink]:
    """The links in *namespace*, its loopback left out; empty where the namespace is not there."""
    try:
        links = call_in(namespace, lambda inside: inside.links())
    except CaasError as exc:
        if exc.code is Code.NOT_FOUND:
            return {}
        raise
    return {name: link for name, link in links.items() if name != "lo"}


def _build_namespace(name: str, places: Places) -> bool:
    namespace = places.namespace(name)
    if namespace in namespace_names():
        return False
    delete_namespace(namespace)  # what an interrupted creation may have left of it
    create_namespace(namespace, label=places.label(name))
    # Hosts begin as a fresh machine does, whatever this machine forwards; what agents set later stays.
    call_in(namespace, lambda inside: inside.set_sysctl("net.ipv4.ip_forward", "0"))
    return True


def _build_switch(inside: Inside, switch: Switch) -> None:
    # A switch has no addresses, and must not chatter on what it joins.
    for which in ("default", "all"):
        inside.set_sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "1")
    if BRIDGE not in inside.links():
        inside.create_switch(BRIDGE, mtu=switch.mtu)
    inside.set_link(inside.links()[BRIDGE], mtu=switch.mtu)


def _cables(machine: Machine, topology: Topology, places: Places) -> tuple[Cable, ...]:
    cables = []
    for nic in machine.nics:
        if nic.switch:
            peer, where, mtu = (
                make_switch_port_name(machine.name, nic.name),
                nic.switch,
                topology.switches[nic.switch].mtu,
            )
        else:
            where, peer = nic.wire
            if (where, peer) < (machine.name, nic.name):
                continue  # the other end makes it
            mtu = next(other.mtu for other in topology.machine(where).nics if other.name == peer)
        cables.append(Cable(nic=nic, peer=peer, peer_namespace=places.namespace(where), peer_mtu=mtu))
    return tuple(cables)


def _plug(inside: Inside, cables: tuple[Cable, ...]) -> None:
    present = inside.links()
    for cable in cables:
        if cable.nic.name not in present:
            inside.create_veth(
                cable.nic.name,
                mtu=cable.nic.mtu,
                peer=cable.peer,
                peer_namespace=cable.peer_namespace,
                peer_mtu=cable.peer_mtu,
            )


def _raise_ports(inside: Inside, switch: Switch) -> None:
    links = inside.links()
    for link in links.values():
        if link.kind == "veth" and not (link.up and link.master == BRIDGE and link.mtu == switch.mtu):
            inside.set_link(link, mtu=switch.mtu, master=links[BRIDGE])


def _set_up(inside: Inside, machine: Machine) -> None:
    links = inside.links()
    for nic in machine.nics:
        if links[nic.name].up:
            continue
        if nic.address is None:
            # A NIC for tagged frames only: the host itself has nothing to say on it.
            inside.set_sysctl(f"net/ipv6/conf/{nic.name}/disable_ipv6", "1")
        else:
            inside.add_address(links[nic.name], nic.address)
        inside.set_link(links[nic.name], mtu=nic.mtu)
    if machine.role is Role.HOST:
        for nic in machine.nics:
            if nic.address is not None:
                # What a host's owner does who wants containers behind it: agents change no link that is not theirs.
                inside.set_sysctl(f"net/ipv4/conf/{nic.name}/forwarding", "1")
    if machine.role is Role.ROUTER:
        inside.set_sysctl("net.ipv4.ip_forward", "1")
    for dst, via in machine.routes:
        inside.set_route(dst, via, onlink=links[machine.onlink] if machine.onlink else None)
