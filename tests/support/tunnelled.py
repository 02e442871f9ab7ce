"""Two hosts that are joined by a tunnel, or one and bare wire; each has a bridge with a box behind it.

box1 10.9.1.2 --- lxcbr0 10.9.1.1 [host] eth1 === eth1 [wire] 10.9.2.1 lxcbr0 --- 10.9.2.2 box2
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from agent.kernel.door import NetlinkDoor
from proto.marks import HOST, Mark
from proto.model import Address, Bridge, Container, HostState, Ipip, Nic, Route
from tests.support.netns import HOST_ADDRESS, WIRE_ADDRESS, Site, run

MTU = 1480
BOX_MACS = {1: "02:00:00:00:01:02", 2: "02:00:00:00:02:02"}
ENDS = {1: IPv4Address(HOST_ADDRESS), 2: IPv4Address(WIRE_ADDRESS)}


def make_tunnel(number: int, *, mtu: int = MTU) -> Ipip:
    """That of the host with the number (1, 2) to the other."""
    name = f"t{ENDS[3 - number]}"
    return Ipip(name=name, local=ENDS[number], remote=ENDS[3 - number], mtu=mtu, mark=Mark(HOST, name))


def make_tunnels(number: int) -> Ipip:
    """One that leads to any far end."""
    return Ipip(name="tunnels", local=ENDS[number], remote=None, mtu=MTU, mark=Mark(HOST, "tunnels"))


def make_end(number: int, *, any_end: bool = False, mtu: int = MTU) -> HostState:
    """All that the host has of it."""
    tunnel = make_tunnels(number) if any_end else make_tunnel(number, mtu=mtu)
    gateway = IPv4Interface(f"10.9.{number}.1/24")
    route = Route(dst=IPv4Network(f"10.9.{3 - number}.0/24"), dev=tunnel.name, src=gateway.ip)
    return HostState(
        links=(Bridge(name="lxcbr0", mtu=mtu, mark=Mark("demo", "lan")), tunnel),
        addresses=(Address(link="lxcbr0", address=gateway),),
        routes=(replace(route, encap=ENDS[3 - number]) if any_end else route,),
    )


def things(state: HostState) -> list[Bridge | Ipip | Address | Route]:
    """In the order in which a plan makes them."""
    return [*state.links, *state.addresses, *state.routes]  # type: ignore[list-item]


def make(door: NetlinkDoor, state: HostState) -> None:
    for thing in things(state):
        door.create(thing)


def remove(door: NetlinkDoor, state: HostState) -> None:
    for thing in reversed(things(state)):
        door.delete(thing)


def add_box(site: Site, number: int) -> str:
    """A box behind the host with that number, by that host's default route."""
    where = {1: site.host, 2: site.wire}[number]
    box = site.namespaces.add(f"box{number}")
    port = f"demo.box{number}"
    run(
        f"ip link add {port} netns {where} type veth peer name eth0 netns {box}"
        f" && ip -n {box} link set eth0 address {BOX_MACS[number]} up"
        f" && ip -n {box} address add 10.9.{number}.2/24 dev eth0"
        f" && ip -n {box} route add default via 10.9.{number}.1"
        f" && ip -n {where} link set {port} master lxcbr0 up"
    )
    return box


def make_container(number: int) -> Container:
    """The box as a container, for set_port_mark."""
    nic = Nic(
        bridge="lxcbr0",
        port=f"demo.box{number}",
        mac=BOX_MACS[number],
        mtu=MTU,
        address=IPv4Interface(f"10.9.{number}.2/24"),
        gateway=IPv4Address(f"10.9.{number}.1"),
    )
    return Container(cluster="demo", hostname=f"box{number}", image="test", nic=nic, hosts=(), roles=())
