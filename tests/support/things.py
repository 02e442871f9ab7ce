"""Small valid objects of the vocabulary, for tests that need some."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from agent.core.doors import ForeignLink
from proto.marks import HOST, TUNNEL_RULE_PRIORITY, TUNNEL_TABLE, Mark
from proto.model import Bridge, ClusterHost, Container, HostEntry, HostState, Ipip, Nic, Route, Rule, Vlan
from proto.names import make_bridge_name, make_port_name, make_vlan_name

TRUNK = ForeignLink(name="eth1", kind="veth", mtu=1500, up=True)


def make_bridge(vid: int = 100, *, cluster: str = "demo", mtu: int = 1500) -> Bridge:
    return Bridge(name=make_bridge_name(vid), mtu=mtu, mark=Mark(cluster, "cluster"))


def make_vlan(vid: int = 100, *, cluster: str = "demo", parent: str = "eth1", mtu: int = 1500) -> Vlan:
    return Vlan(
        name=make_vlan_name(parent, vid),
        parent=parent,
        vid=vid,
        mtu=mtu,
        master=make_bridge_name(vid),
        mark=Mark(cluster, "cluster"),
    )


def make_container(
    hostname: str = "ubuntu011", *, number: int = 50, cluster: str = "demo", vid: int = 100, running: bool = True
) -> Container:
    address = IPv4Interface(f"192.168.10.{number}/24")
    return Container(
        cluster=cluster,
        hostname=hostname,
        image="test-busybox",
        nic=Nic(
            bridge=make_bridge_name(vid),
            port=make_port_name(cluster, hostname),
            mac=f"02:00:00:00:00:{number:02x}",
            mtu=1500,
            address=address,
            gateway=IPv4Address("192.168.10.1"),
        ),
        hosts=(HostEntry(address=address.ip, names=(hostname,)),),
        roles=("compute",),
        running=running,
    )


def make_state(*containers: Container, vid: int = 100, cluster: str = "demo", mtu: int = 1500) -> HostState:
    links = (make_bridge(vid, cluster=cluster, mtu=mtu), make_vlan(vid, cluster=cluster, mtu=mtu))
    return HostState(links=links, containers=containers)


def make_desired(*containers: Container, generation: int = 1, cluster: str = "demo", vid: int = 100) -> ClusterHost:
    return ClusterHost(
        cluster=cluster, host="host1", generation=generation, state=make_state(*containers, vid=vid, cluster=cluster)
    )


def make_tunnelled(number: int) -> HostState:
    """What is shared of a tunnel to the host with that number: the link, its routes and the rule for its far end."""
    name, remote = f"t192.0.2.{number}", IPv4Address(f"192.0.2.{number}")
    tunnel = Ipip(name=name, local=IPv4Address("192.0.2.100"), remote=remote, mtu=1480, mark=Mark(HOST, name))
    far_end, block = IPv4Network(remote), IPv4Network(f"10.9.{number}.0/24")
    return HostState(
        links=(tunnel,),
        routes=(Route(dst=block, dev=name), Route(dst=far_end, dev=name, table=TUNNEL_TABLE)),
        rules=(Rule(priority=TUNNEL_RULE_PRIORITY, src=block, dst=far_end, table=TUNNEL_TABLE),),
    )
