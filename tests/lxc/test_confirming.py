"""A first change of a network is taken back under a container that runs: it runs on, and its port is where it was."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

from agent.containers.door import LxcDoor
from agent.host import Host
from agent.kernel.door import NetlinkDoor
from agent.saved import SavedStates
from proto.marks import Mark
from proto.model import Address, Bridge, ClusterHost, Container, Cost, HostState, Vlan
from tests.lxc.test_door import pid_of
from tests.support.clock import FakeClock
from tests.support.oracle import addresses, links

MARK = Mark("t", "cluster")
BRIDGE, VLAN = "lxcbr100", "eth1.100"


def make_desired(one: Container, generation: int) -> ClusterHost:
    """A bridge with an address, a VLAN in it, and *one* on it."""
    state = HostState(
        links=(
            Bridge(name=BRIDGE, mtu=1450, mark=MARK),
            Vlan(name=VLAN, parent="eth1", vid=100, mtu=1450, master=BRIDGE, mark=MARK),
        ),
        addresses=(Address(link=BRIDGE, address=IPv4Interface("10.8.0.1/24")),),
        containers=(one,),
    )
    return ClusterHost(cluster="t", host="host1", generation=generation, state=state)


def test_a_container_runs_on_and_its_port_stays(
    host: str, state: Path, open_door: Callable[..., LxcDoor], container: Callable[..., Container]
) -> None:
    subprocess.run("ip link add eth1 type veth peer name wire && ip link set eth1 up", shell=True, check=True)
    one = container()
    one = replace(one, nic=replace(one.nic, bridge=BRIDGE, address=IPv4Interface("10.8.0.11/24"), gateway=None))
    door, clock = open_door(), FakeClock()
    with NetlinkDoor(netns=host) as kernel:
        agent = Host("host1", kernel, door, SavedStates(state / "desired"), clock=clock)

        def apply(generation: int) -> Cost:
            return agent.apply(
                make_desired(one, generation), confirm_within=30, on_plan=lambda _: None, on_done=lambda _: None
            )

        apply(1)
        init, before = pid_of(door, one), links(host)
        assert (before[VLAN]["master"], before[one.nic.port]["master"]) == (BRIDGE, BRIDGE)
        clock.advance(30)
        assert agent.taken_back() == ["t"]
        after = links(host)
        assert VLAN not in after
        assert [each for each in addresses(host, BRIDGE) if "." in each] == []
        assert pid_of(door, one) == init
        for name in (BRIDGE, one.nic.port):
            assert after[name]["ifindex"] == before[name]["ifindex"]
        assert (after[one.nic.port]["master"], after[one.nic.port]["operstate"]) == (BRIDGE, "UP")
        assert apply(2).container_writes == 0
        agent.confirm("t", 2, hold=False)
        assert links(host)[VLAN]["master"] == BRIDGE
        assert pid_of(door, one) == init
        agent.destroy("t", generation=3, dry_run=False, on_plan=lambda _: None, on_done=lambda _: None)
        assert {VLAN, BRIDGE, one.nic.port} & links(host).keys() == set()
