"""Seed 001's picture in namespaces: hosts that only a router joins, each made as compile wants it; boxes for
containers.

computes-1 192.168.10.1 ---+             +--- 192.168.1.13 control
                           +-- router ---+
computes-2 192.168.10.2 ---+             +--- 10.1.1.20 rally
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from agent.core.apply import apply
from agent.kernel.door import NetlinkDoor
from coordinator.compiling import Compiled, compile_cluster
from coordinator.config import Surroundings, load_bytes
from proto.model import Container, HostState, Plan
from tests.support.fakes import FakeContainers
from tests.support.netns import Namespaces, run

CASE = Path(__file__).parents[1] / "golden/rally/picture"
#: The router's address on each of its links, which are to single hosts.
NEXT_HOP = "169.254.0.1"


def compile_picture() -> tuple[Compiled, dict[str, IPv4Address]]:
    """What the file of the picture comes to, and its hosts' addresses."""
    said = json.loads((CASE / "surroundings.json").read_text())
    ends = {IPv4Address(address): name for address, name in said["agents"].items()}
    around = Surroundings(distributions=said["distributions"], agents=ends)
    file = load_bytes((CASE / "deployment.json").read_bytes(), file="picture.json", surroundings=around)
    return compile_cluster(file), {name: address for address, name in ends.items()}


class Boxes(FakeContainers):
    """Containers that are no more than a namespace on a port of the host's bridge."""

    def __init__(self, spaces: Namespaces, host: str) -> None:
        super().__init__()
        self._spaces, self._host = spaces, host
        self.names: dict[IPv4Address, str] = {}

    def start(self, container: Container) -> None:
        super().start(container)
        nic = container.nic
        box = self._spaces.add(f"box{nic.address.ip}")
        run(
            f"ip link add {nic.port} netns {self._host} type veth peer name eth0 netns {box}"
            f" && ip -n {box} -batch - <<END &&\nlink set eth0 address {nic.mac} mtu {nic.mtu} up\n"
            f"address add {nic.address} dev eth0\nroute add default via {nic.gateway}\nEND\n"
            f"ip -n {self._host} link set {nic.port} mtu {nic.mtu} master {nic.bridge} up"
        )
        self.names[nic.address.ip] = box


class Picture:
    """All hosts as wanted, with one container each where they have any; `close` removes everything."""

    def __init__(self, realisation: str) -> None:
        compiled, self.ends = compile_picture()
        self.cluster = compiled.cluster
        #: One container of each host will do: the others are like it.
        self.wanted = {
            name: replace(host.state, containers=host.state.containers[:1]) for name, host in compiled.hosts.items()
        }
        self._undo = ExitStack()
        self._spaces = Namespaces()
        self._undo.callback(self._spaces.close)
        try:
            self.router = self._spaces.add("router")
            run("echo 1 > /proc/sys/net/ipv4/ip_forward", netns=self.router)
            self.hosts = {name: self._add_host(name, number) for number, name in enumerate(self.wanted)}
            self.doors = {
                name: self._undo.enter_context(NetlinkDoor(netns=netns, ipip=realisation))  # type: ignore[arg-type]
                for name, netns in self.hosts.items()
            }
            self.boxes = {name: Boxes(self._spaces, netns) for name, netns in self.hosts.items()}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._undo.close()

    def put(self, name: str, state: HostState) -> Plan:
        """Make the host so, through the agent's core; what was done."""
        ignored: list[object] = []
        return apply(
            self.doors[name],
            self.boxes[name],
            self.cluster,
            state,
            others=HostState(),
            on_plan=ignored.append,
            on_done=ignored.append,
        )

    def _add_host(self, name: str, number: int) -> str:
        host, end = self._spaces.add(name), self.ends[name]
        run(
            f"ip link add eth0 netns {host} type veth peer name to{number} netns {self.router}"
            f" && ip -n {host} -batch - <<END &&\nlink set eth0 up\naddress add {end}/32 dev eth0\n"
            f"route add {NEXT_HOP} dev eth0\nroute add default via {NEXT_HOP}\nEND\n"
            f"ip -n {self.router} -batch - <<END\nlink set to{number} up\naddress add {NEXT_HOP}/32 dev to{number}\n"
            f"route add {end} dev to{number}\nEND\n"
        )
        return host
