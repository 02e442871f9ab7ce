"""Wire and model: every value survives the way there and back; what is wrong is named by its field."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import types_pb2 as pb
from proto.errors import CaasError, Code
from proto.marks import Mark
from proto.model import (
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
from proto.wire import (
    cluster_host_from_wire,
    cluster_host_to_wire,
    gateway_table_from_wire,
    gateway_table_to_wire,
    host_state_from_wire,
    host_state_to_wire,
)

labels = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
addresses = st.integers(2**26, 2**32 - 2).map(IPv4Address)
networks = st.tuples(addresses, st.integers(8, 30)).map(lambda pair: IPv4Network(pair, strict=False))

far = st.integers(2**24, 2**25).map(IPv4Address)
interfaces = st.tuples(addresses, st.integers(8, 30)).map(IPv4Interface)
marks = st.builds(Mark, labels, labels)
mtus = st.integers(576, 9000)
macs = st.binary(min_size=5, max_size=5).map(lambda tail: "02:" + tail.hex(":"))
bridges = st.builds(Bridge, name=labels, mtu=mtus, mark=marks)
vlans = st.builds(
    Vlan, name=labels, parent=labels, vid=st.integers(1, 4094), mtu=mtus, master=labels | st.just(""), mark=marks
)
ipips = st.builds(Ipip, name=labels, local=addresses, remote=st.none() | far, mtu=mtus, mark=marks)
vxlans = st.builds(Vxlan, name=labels, local=addresses, mtu=mtus, mark=marks)
ports = st.integers(1, 65535)
containers = st.builds(
    Container,
    cluster=labels,
    hostname=labels,
    image=labels,
    merge=st.booleans(),
    nic=st.builds(
        Nic, bridge=labels, port=labels, mac=macs, mtu=mtus, address=interfaces, gateway=st.none() | addresses
    ),
    hosts=st.lists(
        st.builds(HostEntry, address=addresses, names=st.lists(labels, max_size=2).map(tuple)), max_size=2
    ).map(tuple),
    roles=st.lists(labels, max_size=3).map(tuple),
    clone_of=labels | st.just(""),
    running=st.booleans(),
    ssh=st.booleans(),
)


def unique(things: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(things, max_size=3, unique_by=lambda thing: thing.name).map(tuple)  # type: ignore[attr-defined]


states = st.builds(
    HostState,
    links=unique(bridges | vlans | ipips | vxlans),
    addresses=unique(st.builds(Address, link=labels, address=interfaces)),
    routes=unique(
        st.builds(
            Route,
            dst=networks,
            dev=labels,
            via=st.none() | addresses,
            src=st.none() | addresses,
            table=st.integers(1, 2**31),
            encap=st.none() | addresses,
        )
    ),
    rules=unique(
        st.builds(
            Rule,
            priority=st.integers(0, 32767),
            src=st.none() | networks,
            dst=st.none() | networks,
            table=st.integers(1, 2**31),
        )
    ),
    masquerades=unique(
        st.builds(Masquerade, source=networks, exempt=st.lists(networks, max_size=2).map(tuple), mark=marks)
    ),
    forwards=unique(st.builds(Forward, address=addresses, port=ports, to=addresses, to_port=ports, mark=marks)),
    containers=unique(containers),
)


@given(states)
def test_a_state_survives_the_way_there_and_back(state: HostState) -> None:
    message = pb.HostState.FromString(host_state_to_wire(state).SerializeToString())
    assert host_state_from_wire(message) == state


@given(states, labels, labels, st.integers(1, 2**60), st.booleans())
def test_a_clusters_host_survives(state: HostState, cluster: str, host: str, generation: int, taken_back: bool) -> None:
    desired = ClusterHost(cluster=cluster, host=host, generation=generation, state=state, taken_back=taken_back)
    assert cluster_host_from_wire(cluster_host_to_wire(desired)) == desired


def test_a_gateway_table_survives() -> None:
    gateway = Gateway(
        cluster="demo",
        network="cluster",
        vid=100,
        gateway=IPv4Interface("192.168.10.1/24"),
        neighbours=(Neighbour(address=IPv4Address("192.168.10.50"), mac="02:00:00:00:00:01"),),
        external=IPv4Address("203.0.113.7"),
        publications=(Publication(protocol="udp", port=53, to=IPv4Address("192.168.10.50"), to_port=5353),),
        own_addresses=(OwnAddress(external=IPv4Address("203.0.113.8"), address=IPv4Address("192.168.10.50")),),
        limits=Limits(connections=1000, connections_per_second=50),
    )
    table = GatewayTable(cluster="demo", generation=3, gateways=(gateway,))
    assert gateway_table_from_wire(gateway_table_to_wire(table)) == table


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (pb.HostState(links=[pb.Link(), pb.Link()]), "links[0]"),
        (pb.HostState(addresses=[pb.Address(link="a", address="10.0.0.1")]), "addresses[0].address"),
        (pb.HostState(routes=[pb.Route(dst="10.0.0.1/8", dev="a")]), "routes[0].dst"),
        (
            pb.HostState(
                links=[
                    pb.Link(
                        vlan=pb.Vlan(name="a.1", parent="a", vid=4095, mtu=1500, mark=pb.Mark(cluster="c", object="o"))
                    )
                ]
            ),
            "links[0].vlan",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_field(message: pb.HostState, path: str) -> None:
    with pytest.raises(CaasError) as caught:
        host_state_from_wire(message)
    assert caught.value.code is Code.INVALID
    assert caught.value.message.startswith(f"{path}: "), caught.value.message
