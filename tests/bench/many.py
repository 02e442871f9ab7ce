"""Sixty-four small containers of one host, as both contenders make them. Imports no gRPC and no liblxc."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

from proto.marks import Mark
from proto.model import Bridge, Container, HostEntry, Nic, Vlan
from proto.names import make_bridge_name, make_port_name, make_vlan_name

COUNT = 64
VID, MTU = 100, 1500
TRUNK = "eth1"
IMAGE = "test-busybox"
GATEWAY = "10.64.0.1"


def make_containers(cluster: str) -> tuple[Container, ...]:
    """The containers of *cluster*; each knows the others by name."""
    names = [f"c{number:02d}" for number in range(COUNT)]
    hosts = tuple(HostEntry(address=_address(number).ip, names=(name,)) for number, name in enumerate(names))
    return tuple(
        Container(
            cluster=cluster,
            hostname=name,
            image=IMAGE,
            nic=Nic(
                bridge=make_bridge_name(VID),
                port=make_port_name(cluster, name),
                mac=f"02:00:00:00:00:{number:02x}",
                mtu=MTU,
                address=_address(number),
                gateway=IPv4Address(GATEWAY),
            ),
            hosts=hosts,
            roles=("compute",),
        )
        for number, name in enumerate(names)
    )


def make_links(cluster: str) -> tuple[Bridge, Vlan]:
    """What they are joined to."""
    mark, name = Mark(cluster, "cluster"), make_bridge_name(VID)
    vlan = Vlan(name=make_vlan_name(TRUNK, VID), parent=TRUNK, vid=VID, mtu=MTU, master=name, mark=mark)
    return Bridge(name=name, mtu=MTU, mark=mark), vlan


def _address(number: int) -> IPv4Interface:
    return IPv4Interface(f"10.64.0.{10 + number}/24")
