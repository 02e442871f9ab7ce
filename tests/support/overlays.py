"""Three hosts and a cluster on them, in namespaces: compiled, and applied by each host's core through its real door.

h1 192.168.10.1 --+
h2 192.168.10.2 --+-- 192.168.10.254 [router] 192.168.11.254 -- h3 192.168.11.3

Behind each host's bridge stands a box for its container.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from agent.core.apply import apply, plan_cluster
from agent.kernel.door import NetlinkDoor
from coordinator.compiling import Compiled, Facts, HostFacts, Pair, Way, compile_cluster
from coordinator.config import ClusterFile, load_bytes
from proto.model import HostState, Nic, Plan
from tests.support.fakes import FakeContainers
from tests.support.netns import Namespaces, poll_until, run

ADDRESSES = {"h1": "192.168.10.1", "h2": "192.168.10.2", "h3": "192.168.11.3"}
MTU = 1500
FILE = """\
name: demo
hosts:
  h1: {address: 192.168.10.1}
  h2: {address: 192.168.10.2}
  h3: {address: 192.168.11.3}
networks:
  lan: {subnet: 10.9.1.0/24, overlay: OVERLAY}
containers:
"""


class Hosts:
    """The namespaces, with a door for each host. *ipip* is the realisation of tunnels."""

    def __init__(self, *, ipip: str = "auto") -> None:
        self.spaces = Namespaces()
        self._stack = ExitStack()
        self._stack.callback(self.spaces.close)
        self.doors: dict[str, NetlinkDoor] = {}
        self.boxes: dict[str, str] = {}
        self.nics: dict[str, Nic] = {}
        try:
            self.router, self.switch = self.spaces.add("router"), self.spaces.add("switch")
            run("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up", netns=self.switch)
            self.hosts = {name: self.spaces.add(name) for name in ADDRESSES}
            self._plug(self.router, "eth0", "192.168.10.254")
            self._plug(self.hosts["h1"], "eth0", ADDRESSES["h1"])
            self._plug(self.hosts["h2"], "eth0", ADDRESSES["h2"])
            run(
                f"ip link add eth1 netns {self.router} type veth peer name eth0 netns {self.hosts['h3']}"
                f" && ip -n {self.hosts['h3']} address add 192.168.11.3/24 dev eth0"
                f" && ip -n {self.hosts['h3']} link set eth0 up"
                f" && ip -n {self.router} address add 192.168.11.254/24 dev eth1"
                f" && ip -n {self.router} link set eth1 up"
            )
            run("echo 1 > /proc/sys/net/ipv4/ip_forward", netns=self.router)
            for name, netns in self.hosts.items():
                run(f"ip -n {netns} route add default via {ADDRESSES[name].rpartition('.')[0]}.254")
                door = NetlinkDoor(netns=netns, ipip=ipip)  # type: ignore[arg-type]
                self.doors[name] = self._stack.enter_context(door)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def compile(self, overlay: str, pairs: dict[Pair, str], *, on: tuple[str, ...] = tuple(ADDRESSES)) -> Compiled:
        """What `file` comes to; *pairs* are the ways that were found."""
        facts = Facts(
            hosts={name: HostFacts(links={"eth0": MTU}, underlay_mtu=MTU) for name in ADDRESSES},
            pairs={pair: Way(method=method, why="the test says so") for pair, method in pairs.items()},
        )
        return compile_cluster(self.file(overlay, on=on), facts)

    @staticmethod
    def file(overlay: str, *, on: tuple[str, ...] = tuple(ADDRESSES)) -> ClusterFile:
        """A cluster with a container on each host of *on*."""
        lines = [f"  c{name[1:]}: {{host: {name}, network: lan, roles: [compute]}}" for name in on]
        lines[0] = lines[0].replace("[compute]", "[controller]")
        text = FILE.replace("OVERLAY", overlay) + "\n".join(lines) + "\n"
        return load_bytes(text.encode(), file="demo.yaml")

    def apply(self, compiled: Compiled) -> None:
        """Make every host so, without its containers, for which boxes stand."""
        for name, door in self.doors.items():
            state = replace(compiled.hosts[name].state, containers=())
            apply(door, FakeContainers(), "demo", state, others=HostState(), on_plan=_ignore, on_done=_ignore)
        for name in self.doors:
            for container in compiled.hosts[name].state.containers:
                if name not in self.boxes:
                    self._add_box(name, container.nic)

    def plan(self, name: str, compiled: Compiled) -> Plan:
        """What the host still needs."""
        state = replace(compiled.hosts[name].state, containers=())
        return plan_cluster(self.doors[name], FakeContainers(), "demo", state, others=HostState())

    def remove(self) -> None:
        """Take the cluster down again."""
        for door in self.doors.values():
            nothing = HostState()
            apply(door, FakeContainers(), "demo", nothing, others=nothing, on_plan=_ignore, on_done=_ignore)

    def check_mtu(self, mtu: int) -> None:
        """All boxes reach all others with packets of *mtu* bytes, and are told that one byte more is too long."""

        def check(one: str, other: str) -> None:
            poll_until(lambda: self.pings(one, other), deadline=10)
            assert self.pings(one, other, size=mtu - 28)
            assert self.refuses(one, other, size=mtu - 27)

        with ThreadPoolExecutor() as pool:
            list(pool.map(check, *zip(*itertools.permutations(self.boxes, 2), strict=True)))

    def pings(self, one: str, other: str, *, size: int = 56) -> bool:
        """Whether the box of *one* has an answer of the box of *other* to an unfragmented echo with *size* bytes."""
        target = self.nics[other].address.ip
        command = f"ping -M do -s {size} -c 1 -W 2 {target} >/dev/null && echo yes"
        return bool(run(command, netns=self.boxes[one], check=False))

    def refuses(self, one: str, other: str, *, size: int) -> bool:
        """Whether the box of *one* is told that an echo with *size* bytes is too long, and by its own stack."""
        command = f"ping -M do -s {size} -c 1 -W 0.2 {self.nics[other].address.ip} 2>&1"
        return "message too long" in run(command, netns=self.boxes[one], check=False)

    def _plug(self, netns: str, link: str, address: str) -> None:
        port = f"p{address.rpartition('.')[2]}"
        run(
            f"ip link add {link} netns {netns} type veth peer name {port} netns {self.switch}"
            f" && ip -n {self.switch} link set {port} master br0 up"
            f" && ip -n {netns} address add {address}/24 dev {link} && ip -n {netns} link set {link} up"
        )

    def _add_box(self, name: str, nic: Nic) -> None:
        box = self.spaces.add(f"box-{name}")
        host = self.hosts[name]
        run(
            f"ip link add {nic.port} netns {host} type veth peer name eth0 netns {box}"
            f" && ip -n {box} link set eth0 address {nic.mac} mtu {nic.mtu} up"
            f" && ip -n {box} address add {nic.address} dev eth0 && ip -n {box} route add default via {nic.gateway}"
            f" && ip -n {host} link set {nic.port} mtu {nic.mtu} master {nic.bridge} up"
        )
        self.boxes[name], self.nics[name] = box, nic


def _ignore(_: object) -> None:
    return None
