"""Wire <-> model, both directions. What comes in is checked; INVALID names the field: `state.links[3].vlan.vid`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from proto import types_pb2 as pb
from proto.errors import CaasError, Code, invalid
from proto.marks import Mark
from proto.model import (
    Action,
    Address,
    Bridge,
    ClusterHost,
    Container,
    Forward,
    Gateway,
    GatewayTable,
    HostEntry,
    HostState,
    Ipip,
    Limits,
    Link,
    Masquerade,
    Neighbour,
    Nic,
    OwnAddress,
    Publication,
    Route,
    Rule,
    Vlan,
    Vxlan,
)

T = TypeVar("T")
W = TypeVar("W")


@contextmanager
def _field(path: str) -> Iterator[None]:
    """Put *path* in front of what is wrong below it."""
    try:
        yield
    except CaasError as exc:
        glue = "" if exc.message.startswith("[") else "."
        inner = exc.message if isinstance(exc, _FieldError) else f": {exc.message}"
        text = f"{path}{glue}{inner}" if isinstance(exc, _FieldError) else f"{path}{inner}"
        raise _FieldError(exc.code, text, hint=exc.hint) from exc
    except ValueError as exc:
        raise _FieldError(Code.INVALID, f"{path}: {exc}") from exc


class _FieldError(CaasError):
    """Its message begins with the path of a field."""


def _each(path: str, items: Iterable[W], convert: Callable[[W], T]) -> tuple[T, ...]:
    found = []
    for index, item in enumerate(items):
        with _field(f"{path}[{index}]"):
            found.append(convert(item))
    return tuple(found)


def _ip(path: str, text: str) -> ipaddress.IPv4Address:
    with _field(path):
        return ipaddress.IPv4Address(text)


def _network(path: str, text: str) -> ipaddress.IPv4Network:
    with _field(path):
        return ipaddress.IPv4Network(text)


def _interface(path: str, text: str) -> ipaddress.IPv4Interface:
    with _field(path):
        if "/" not in text:
            raise ValueError(f"{text!r} has no prefix length")
        return ipaddress.IPv4Interface(text)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def mark_to_wire(mark: Mark) -> pb.Mark:
    return pb.Mark(cluster=mark.cluster, object=mark.object)


def mark_from_wire(message: pb.Mark) -> Mark:
    with _field("mark"):
        return Mark(message.cluster, message.object)


def link_to_wire(link: Link) -> pb.Link:
    mark = mark_to_wire(link.mark)
    match link:
        case Bridge():
            return pb.Link(bridge=pb.Bridge(name=link.name, mtu=link.mtu, mark=mark))
        case Vlan():
            vlan = pb.Vlan(
                name=link.name, parent=link.parent, vid=link.vid, mtu=link.mtu, master=link.master, mark=mark
            )
            return pb.Link(vlan=vlan)
        case Ipip():
            ipip = pb.Ipip(name=link.name, local=str(link.local), remote=_text(link.remote), mtu=link.mtu, mark=mark)
            return pb.Link(ipip=ipip)
        case Vxlan():
            return pb.Link(vxlan=pb.Vxlan(name=link.name, local=str(link.local), mtu=link.mtu, mark=mark))


def link_from_wire(message: pb.Link) -> Link:
    match message.WhichOneof("link"):
        case "bridge":
            with _field("bridge"):
                bridge = message.bridge
                return Bridge(name=bridge.name, mtu=bridge.mtu, mark=mark_from_wire(bridge.mark))
        case "vlan":
            with _field("vlan"):
                vlan = message.vlan
                return Vlan(
                    name=vlan.name,
                    parent=vlan.parent,
                    vid=vlan.vid,
                    mtu=vlan.mtu,
                    master=vlan.master,
                    mark=mark_from_wire(vlan.mark),
                )
        case "ipip":
            with _field("ipip"):
                ipip = message.ipip
                return Ipip(
                    name=ipip.name,
                    local=_ip("local", ipip.local),
                    remote=_ip("remote", ipip.remote) if ipip.remote else None,
                    mtu=ipip.mtu,
                    mark=mark_from_wire(ipip.mark),
                )
        case "vxlan":
            with _field("vxlan"):
                vxlan = message.vxlan
                return Vxlan(
                    name=vxlan.name,
                    local=_ip("local", vxlan.local),
                    mtu=vxlan.mtu,
                    mark=mark_from_wire(vxlan.mark),
                )
    raise invalid("a link of no known kind", hint="the other side may be newer: upgrade this one")


def address_to_wire(address: Address) -> pb.Address:
    return pb.Address(link=address.link, address=str(address.address))


def address_from_wire(message: pb.Address) -> Address:
    return Address(link=message.link, address=_interface("address", message.address))


def route_to_wire(route: Route) -> pb.Route:
    return pb.Route(
        dst=str(route.dst),
        dev=route.dev,
        via=_text(route.via),
        src=_text(route.src),
        table=route.table,
        encap=_text(route.encap),
    )


def route_from_wire(message: pb.Route) -> Route:
    return Route(
        dst=_network("dst", message.dst),
        dev=message.dev,
        via=_ip("via", message.via) if message.via else None,
        src=_ip("src", message.src) if message.src else None,
        table=message.table,
        encap=_ip("encap", message.encap) if message.encap else None,
    )


def rule_to_wire(rule: Rule) -> pb.Rule:
    return pb.Rule(priority=rule.priority, src=_text(rule.src), dst=_text(rule.dst), table=rule.table)


def rule_from_wire(message: pb.Rule) -> Rule:
    return Rule(
        priority=message.priority,
        src=_network("src", message.src) if message.src else None,
        dst=_network("dst", message.dst) if message.dst else None,
        table=message.table,
    )


def masquerade_to_wire(rule: Masquerade) -> pb.Masquerade:
    return pb.Masquerade(
        source=str(rule.source), exempt=[str(net) for net in rule.exempt], mark=mark_to_wire(rule.mark)
    )


def masquerade_from_wire(message: pb.Masquerade) -> Masquerade:
    return Masquerade(
        source=_network("source", message.source),
        exempt=_each("exempt", message.exempt, ipaddress.IPv4Network),
        mark=mark_from_wire(message.mark),
    )


def forward_to_wire(forward: Forward) -> pb.Forward:
    return pb.Forward(
        address=str(forward.address),
        port=forward.port,
        to=str(forward.to),
        to_port=forward.to_port,
        mark=mark_to_wire(forward.mark),
    )


def forward_from_wire(message: pb.Forward) -> Forward:
    return Forward(
        address=_ip("address", message.address),
        port=message.port,
        to=_ip("to", message.to),
        to_port=message.to_port,
        mark=mark_from_wire(message.mark),
    )


def nic_to_wire(nic: Nic) -> pb.Nic:
    return pb.Nic(
        bridge=nic.bridge,
        port=nic.port,
        mac=nic.mac,
        mtu=nic.mtu,
        address=str(nic.address),
        gateway=_text(nic.gateway),
    )


def nic_from_wire(message: pb.Nic) -> Nic:
    with _field("nic"):
        return Nic(
            bridge=message.bridge,
            port=message.port,
            mac=message.mac,
            mtu=message.mtu,
            address=_interface("address", message.address),
            gateway=_ip("gateway", message.gateway) if message.gateway else None,
        )


def _entry_from_wire(message: pb.HostEntry) -> HostEntry:
    return HostEntry(address=_ip("address", message.address), names=tuple(message.names))


def container_to_wire(container: Container) -> pb.Container:
    return pb.Container(
        cluster=container.cluster,
        hostname=container.hostname,
        image=container.image,
        nic=nic_to_wire(container.nic),
        hosts=[pb.HostEntry(address=str(entry.address), names=entry.names) for entry in container.hosts],
        roles=container.roles,
        clone_of=container.clone_of,
        running=container.running,
        merge=container.merge,
        ssh=bool(container.ssh),
    )


def container_from_wire(message: pb.Container) -> Container:
    return Container(
        cluster=message.cluster,
        hostname=message.hostname,
        image=message.image,
        nic=nic_from_wire(message.nic),
        hosts=_each("hosts", message.hosts, _entry_from_wire),
        roles=tuple(message.roles),
        clone_of=message.clone_of,
        running=message.running,
        merge=message.merge,
        ssh=message.ssh,
    )


def host_state_to_wire(state: HostState) -> pb.HostState:
    return pb.HostState(
        links=map(link_to_wire, state.links),
        addresses=map(address_to_wire, state.addresses),
        routes=map(route_to_wire, state.routes),
        rules=map(rule_to_wire, state.rules),
        masquerades=map(masquerade_to_wire, state.masquerades),
        containers=map(container_to_wire, state.containers),
        forwards=map(forward_to_wire, state.forwards),
    )


def host_state_from_wire(message: pb.HostState) -> HostState:
    return HostState(
        links=_each("links", message.links, link_from_wire),
        addresses=_each("addresses", message.addresses, address_from_wire),
        routes=_each("routes", message.routes, route_from_wire),
        rules=_each("rules", message.rules, rule_from_wire),
        masquerades=_each("masquerades", message.masquerades, masquerade_from_wire),
        containers=_each("containers", message.containers, container_from_wire),
        forwards=_each("forwards", message.forwards, forward_from_wire),
    )


def cluster_host_to_wire(desired: ClusterHost) -> pb.ClusterHost:
    return pb.ClusterHost(
        cluster=desired.cluster,
        host=desired.host,
        generation=desired.generation,
        state=host_state_to_wire(desired.state),
        taken_back=desired.taken_back,
    )


def cluster_host_from_wire(message: pb.ClusterHost) -> ClusterHost:
    with _field("state"):
        state = host_state_from_wire(message.state)
    return ClusterHost(
        cluster=message.cluster,
        host=message.host,
        generation=message.generation,
        state=state,
        taken_back=message.taken_back,
    )


def gateway_to_wire(gateway: Gateway) -> pb.Gateway:
    return pb.Gateway(
        cluster=gateway.cluster,
        network=gateway.network,
        vid=gateway.vid,
        gateway=str(gateway.gateway),
        neighbours=[pb.Neighbour(address=str(near.address), mac=near.mac) for near in gateway.neighbours],
        external=_text(gateway.external),
        publications=[
            pb.Publication(protocol=one.protocol, port=one.port, to=str(one.to), to_port=one.to_port)
            for one in gateway.publications
        ],
        own_addresses=[
            pb.OwnAddress(external=str(one.external), address=str(one.address)) for one in gateway.own_addresses
        ],
        limits=_limits_to_wire(gateway.limits) if gateway.limits != Limits() else None,
    )


def _limits_to_wire(limits: Limits) -> pb.Limits:
    return pb.Limits(connections=limits.connections, connections_per_second=limits.connections_per_second)


def _neighbour_from_wire(message: pb.Neighbour) -> Neighbour:
    return Neighbour(address=_ip("address", message.address), mac=message.mac)


def _publication_from_wire(message: pb.Publication) -> Publication:
    return Publication(protocol=message.protocol, port=message.port, to=_ip("to", message.to), to_port=message.to_port)


def _own_address_from_wire(message: pb.OwnAddress) -> OwnAddress:
    return OwnAddress(external=_ip("external", message.external), address=_ip("address", message.address))


def gateway_from_wire(message: pb.Gateway) -> Gateway:
    with _field("limits"):
        limits = Limits(
            connections=message.limits.connections,
            connections_per_second=message.limits.connections_per_second,
        )
    return Gateway(
        cluster=message.cluster,
        network=message.network,
        vid=message.vid,
        gateway=_interface("gateway", message.gateway),
        neighbours=_each("neighbours", message.neighbours, _neighbour_from_wire),
        external=_ip("external", message.external) if message.external else None,
        publications=_each("publications", message.publications, _publication_from_wire),
        own_addresses=_each("own_addresses", message.own_addresses, _own_address_from_wire),
        limits=limits,
    )


def gateway_table_to_wire(table: GatewayTable) -> pb.GatewayTable:
    return pb.GatewayTable(
        cluster=table.cluster, generation=table.generation, gateways=map(gateway_to_wire, table.gateways)
    )


def gateway_table_from_wire(message: pb.GatewayTable) -> GatewayTable:
    return GatewayTable(
        cluster=message.cluster,
        generation=message.generation,
        gateways=_each("gateways", message.gateways, gateway_from_wire),
    )


def action_to_wire(action: Action) -> pb.Action:
    return pb.Action(verb=action.verb.value, kind=action.kind, name=action.name, why=action.why)
