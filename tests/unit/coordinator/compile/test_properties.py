"""Whatever the file: the same answer every time, nothing twice, and nothing that runs is ever renumbered."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiling import Compiled, Remembered, compile_cluster, to_document
from coordinator.config import ClusterFile, ContainerSpec, Host, NatBox, VlanNetwork
from coordinator.nova.roles import ROLES
from proto.model import Container
from proto.names import IFNAME_MAX

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "localhost")
TRUNKS = st.sampled_from(["eth1", "bond0", "enp0s31f6", "a-long-trunk-15"])


@st.composite
def clusters(draw: st.DrawFn) -> ClusterFile:
    hosts = {
        name: Host(name=name, address=IPv4Address("172.16.0.1") + index, trunk=draw(TRUNKS))
        for index, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)))
    }
    vids = draw(st.lists(st.integers(1, 4094), min_size=1, max_size=3, unique=True))
    networks = {}
    for index, vid in enumerate(vids):
        subnet = IPv4Network(f"10.{index}.0.0/{draw(st.integers(24, 27))}")
        gateway = draw(st.sampled_from([None, subnet.network_address + 1, subnet.broadcast_address - 1]))
        networks[f"n{index}"] = VlanNetwork(name=f"n{index}", vid=vid, subnet=subnet, gateway=gateway)
    containers = {}
    taken = {network.gateway for network in networks.values()}
    for index, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=20, unique=True))):
        network = networks[draw(st.sampled_from(sorted(networks)))]
        number = draw(st.none() | st.integers(1, 28))
        address = None if number is None else network.subnet.network_address + number
        address = None if address in taken else address
        taken.add(address)
        containers[name] = ContainerSpec(
            name=name,
            host=draw(st.sampled_from(sorted(hosts))),
            network=network.name,
            address=address,
            roles=ROLES if index == 0 else ("compute",),
        )
    return ClusterFile(
        name=draw(NAMES.filter(lambda name: name not in ("eth1", "bond0", "enp0s31f6"))),
        hosts=hosts,
        natbox=NatBox(address=IPv4Address("172.16.1.1"), trunk="eth1", uplink="eth2"),
        networks=networks,
        containers=containers,
    )


def _all(compiled: Compiled) -> dict[str, Container]:
    return {one.hostname: one for host in compiled.hosts.values() for one in host.state.containers}


@given(clusters())
@settings(max_examples=150, deadline=None)
def test_the_same_file_gives_the_same_answer_and_nothing_twice(file: ClusterFile) -> None:
    compiled = compile_cluster(file)
    assert compile_cluster(file) == compiled
    assert to_document(compile_cluster(file)) == to_document(compiled)
    containers = _all(compiled)
    assert set(containers) == set(file.containers)
    for what in ("mac", "port", "address"):
        found = Counter(getattr(one.nic, what) for one in containers.values())
        assert max(found.values()) == 1, (what, found)
    gateways = {network.gateway for network in file.vlans.values()}
    for name, one in containers.items():
        network = file.vlans[file.containers[name].network]
        assert one.nic.address.network == network.subnet
        assert one.nic.address.ip not in gateways
        assert one.nic.address.ip not in (network.subnet.network_address, network.subnet.broadcast_address)
        assert file.containers[name].address in (None, one.nic.address.ip)
    for host in compiled.hosts.values():
        names = [link.name for link in host.state.links] + [one.nic.port for one in host.state.containers]
        assert len(set(names)) == len(names)
        assert all(len(name) <= IFNAME_MAX for name in names)
        assert {one.nic.bridge for one in host.state.containers} <= {link.name for link in host.state.links}


@given(clusters(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_what_runs_is_the_same_whatever_is_added_around_it(file: ClusterFile, random: object) -> None:
    """Bring a part of the file up, then the whole in another order: the part is not touched."""
    names = list(file.containers)
    part = {name: file.containers[name] for name in names[: max(1, len(names) // 2)]}
    shuffled = names[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before = compile_cluster(_with(file, part))
    remembered = Remembered.of({name: host.state.containers for name, host in before.hosts.items()})
    given_to = {one.nic.address.ip for one in _all(before).values()}
    rest = {name: file.containers[name] for name in names if name not in part}
    if any(spec.address in given_to for spec in rest.values()):
        return  # refused, and tested by itself
    after = compile_cluster(_with(file, {name: file.containers[name] for name in shuffled}), None, remembered)
    kept = _all(after)
    for name, one in _all(before).items():
        assert kept[name] == one
    assert after.removed == ()


def _with(file: ClusterFile, containers: dict[str, ContainerSpec]) -> ClusterFile:
    return ClusterFile(
        name=file.name,
        hosts=file.hosts,
        natbox=file.natbox,
        networks=file.networks,
        containers=containers,
        nova=file.nova,
    )
