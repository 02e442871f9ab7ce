"""A cluster's network with real agents in namespaces: hosts, boxes that stand for containers, a router and a trunk.

box -- bridge [host1] eth0 192.168.1.25 -- .1 [router] 192.168.2.1 -- .26 eth0 [host2] bridge -- box
                      eth1 -------------------- [trunk] ------------------- eth1

What an agent does to the network is the agent's own code; boxes, router and trunk are made by iproute2.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio

from agent.core.doors import ObservedContainer
from agent.host import Host
from agent.kernel.door import NetlinkDoor
from agent.kernel.look import KernelLook
from agent.rpc.service import NodeAgent
from agent.saved import SavedStates
from coordinator.compiling import compile_cluster
from coordinator.config import load_bytes
from coordinator.fleet import AgentClient
from coordinator.reach import Pair, look
from proto import agent_pb2_grpc
from proto.model import ClusterHost, Container
from proto.transport.client import open_unix_channel
from proto.transport.server import Server
from tests.support.fakes import FakeContainers
from tests.support.netns import Namespaces, run

UNDERLAY = {"host1": "192.168.1.25", "host2": "192.168.2.26"}
HEAD = """\
name: demo
hosts:
  host1: {address: 192.168.1.25, trunk: eth1}
  host2: {address: 192.168.2.26, trunk: eth1}
networks:
"""
ROUTED = "  lan: {subnet: 10.9.1.0/24, overlay: ipip}\n"
WRAPPED = "  lan: {subnet: 10.9.1.0/24, overlay: vxlan}\n"
TAGGED = "  lan: {vlan: 100, subnet: 10.9.0.0/24}\n"
#: Two boxes on each host.
BOXES = {"a1": "host1", "a2": "host1", "b1": "host2", "b2": "host2"}


class Boxes(FakeContainers):
    """ContainerDoor whose containers are namespaces with an eth0 and a process that sleeps."""

    def __init__(self, namespaces: Namespaces, host: str) -> None:
        super().__init__()
        self._namespaces, self._host = namespaces, host
        self.netns: dict[str, str] = {}
        self._sleepers: dict[str, subprocess.Popen[bytes]] = {}

    def observe(self) -> Sequence[ObservedContainer]:
        return [
            replace(found, pid=self._sleepers[found.container.hostname].pid if found.pid else 0)
            for found in super().observe()
        ]

    def start(self, container: Container) -> None:
        box, nic = self._namespaces.add(container.hostname), container.nic
        self.netns[container.hostname] = box
        run(
            f"ip link add {nic.port} netns {self._host} type veth peer name eth0 netns {box}"
            f" && ip -n {box} link set eth0 address {nic.mac} mtu {nic.mtu} up"
            f" && ip -n {box} address add {nic.address} dev eth0"
            f" && ip -n {self._host} link set {nic.port} mtu {nic.mtu} master {nic.bridge} up"
        )
        if nic.gateway is not None:
            run(f"ip -n {box} route add default via {nic.gateway}")
        self._sleepers[container.hostname] = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{box}", "sleep", "600"], stdin=subprocess.DEVNULL
        )
        super().start(container)

    def stop(self, container: Container) -> None:
        self._end(container.hostname)
        self._namespaces.remove(self.netns.pop(container.hostname))
        super().stop(container)

    def _end(self, hostname: str) -> None:
        sleeper = self._sleepers.pop(hostname)
        sleeper.kill()
        sleeper.wait()

    def close(self) -> None:
        for hostname in list(self._sleepers):
            self._end(hostname)


class World:
    """Made by `start`, removed by `close`. *network* is ROUTED, WRAPPED or TAGGED."""

    def __init__(self, folder: Path, network: str, **realisations: Any) -> None:
        self._folder, self._realisations = folder, realisations
        self.namespaces = Namespaces()
        self.router, self.trunk = self.namespaces.add("router"), self.namespaces.add("trunk")
        self.netns = {name: self._add_host(name) for name in UNDERLAY}
        self.boxes = {name: Boxes(self.namespaces, netns) for name, netns in self.netns.items()}
        self.desired = _compile(network)
        self.doors: dict[str, NetlinkDoor] = {}
        self.hosts: dict[str, Host] = {}
        self.agents: dict[str, AgentClient] = {}
        self._servers: dict[str, Server] = {}
        self._channels: list[grpc.aio.Channel] = []

    def _add_host(self, name: str) -> str:
        host, (net, _, _) = self.namespaces.add(name), UNDERLAY[name].rpartition(".")
        run(
            f"ip link add eth0 netns {host} type veth peer name {name} netns {self.router}"
            f" && ip link add eth1 netns {host} type veth peer name {name} netns {self.trunk}"
            f" && ip -n {self.router} link set {name} up"
            f" && ip -n {self.router} address add {net}.1/24 dev {name}"
            f" && ip -n {host} link set eth0 up && ip -n {host} link set eth1 up"
            f" && ip -n {host} address add {UNDERLAY[name]}/24 dev eth0"
            f" && ip -n {host} route add default via {net}.1"
        )
        if name == "host1":
            run("sysctl -qw net.ipv4.ip_forward=1", netns=self.router)
            run("ip link add br0 type bridge && ip link set br0 up", netns=self.trunk)
        run(f"ip link set {name} master br0 up", netns=self.trunk)
        return host

    async def start(self) -> None:
        """An agent on each host, with the cluster's state applied."""
        for name, netns in self.netns.items():
            self.doors[name] = NetlinkDoor(netns=netns, **self._realisations)
            host = Host(name, self.doors[name], self.boxes[name], SavedStates(self._folder / name))
            host.apply(self.desired[name], on_plan=lambda plan: None, on_done=lambda action: None)
            self.hosts[name] = host
            service = NodeAgent(host, None, KernelLook(netns=netns))  # type: ignore[arg-type]
            server = Server(allowed=None)
            agent_pb2_grpc.add_NodeAgentServicer_to_server(service, server.grpc)
            server.listen_unix(str(self._folder / f"{name}.sock"))
            await server.start()
            self._servers[name] = server
            channel = open_unix_channel(str(self._folder / f"{name}.sock"))
            self._channels.append(channel)
            self.agents[name] = AgentClient(name, channel)

    async def stop_agent(self, name: str) -> None:
        """What it made stays."""
        await self._servers.pop(name).stop(grace=0)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for name in list(self._servers):
            await self.stop_agent(name)
        for door in self.doors.values():
            door.close()
        for boxes in self.boxes.values():
            boxes.close()
        self.namespaces.close()

    def box(self, name: str) -> str:
        """The namespace of a box."""
        return self.boxes[BOXES[name]].netns[name]

    def on(self, name: str, command: str) -> str:
        """Run *command* on a host, a box, the router or the trunk."""
        other = {"router": self.router, "trunk": self.trunk, **self.netns}
        return run(command, netns=other.get(name) or self.box(name))

    async def verify(self) -> tuple[Pair, ...]:
        return await look("demo", self.desired, self.agents)


def _compile(network: str) -> Mapping[str, ClusterHost]:
    addresses = {"a1": "10.9.0.11", "a2": "10.9.0.12", "b1": "10.9.0.13", "b2": "10.9.0.14"}
    lines = []
    for number, (name, host) in enumerate(BOXES.items()):
        roles = "[controller, compute]" if number == 0 else "[compute]"
        address = f", address: {addresses[name]}" if network == TAGGED else ""
        lines.append(f"  {name}: {{host: {host}, network: lan{address}, roles: {roles}}}\n")
    text = f"{HEAD}{network}containers:\n{''.join(lines)}"
    return compile_cluster(load_bytes(text.encode(), file="demo.yaml")).hosts
