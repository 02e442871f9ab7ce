"""Asks every host of a cluster file, at once, what it is and what it has. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network

from coordinator.compiling import Facts, HostFacts, Pair, Remembered, Way
from coordinator.config import ClusterFile
from coordinator.fleet import AgentClient, Fleet, NatBoxClient
from coordinator.journal import NATBOX
from proto import agent_pb2, natbox_pb2
from proto.errors import CaasError, Code
from proto.model import Datapath
from proto.wire import container_from_wire

ProbeReply = agent_pb2.ProbeReply | natbox_pb2.NatBoxProbeReply


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSurvey:
    """One host's answers."""

    agent: AgentClient
    probe: agent_pb2.ProbeReply
    seen: agent_pb2.ObserveReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that was answered. `hosts` are those of the file and those the cluster was on before,
    `addresses` theirs; `ways` is what was found between them (coordinator.pairs)."""

    cluster: str
    addresses: Mapping[str, str]
    hosts: Mapping[str, HostSurvey]
    natbox: NatBoxClient | None
    natbox_probe: natbox_pb2.NatBoxProbeReply | None
    ways: Mapping[Pair, Way] = field(default_factory=dict)

    def facts(self) -> Facts:
        """As compile takes them."""
        hosts = {name: _facts(found.probe, self.addresses.get(name, "")) for name, found in self.hosts.items()}
        natbox = _natbox_facts(self.natbox_probe) if self.natbox_probe else None
        return Facts(hosts=hosts, natbox=natbox, pairs=self.ways)

    def remembered(self) -> Remembered:
        """The cluster's containers, as the agents see them: they know better than any journal."""
        return Remembered.of(
            {
                name: [container_from_wire(seen.container) for seen in found.seen.containers]
                for name, found in self.hosts.items()
            },
            ports={
                forward.mark.object: forward.port
                for found in self.hosts.values()
                for forward in found.seen.network.forwards
                if forward.mark.cluster == self.cluster
            },
        )

    def generation(self) -> int:
        """The highest generation of the cluster that any process has, or removed; 0 where none knows any."""
        probes: list[ProbeReply] = [host.probe for host in self.hosts.values()]
        probes += [self.natbox_probe] if self.natbox_probe else []
        return max((known_generation(probe, self.cluster) for probe in probes), default=0)


async def survey(fleet: Fleet, file: ClusterFile, holders: Mapping[str, str]) -> Survey:
    """Ask the hosts and NATBox of *file*, and *holders*: those that may have something of the cluster.

    Every failure is in the one error that is raised. REFUSED where a holder has another address in the file.
    """
    addresses = {host.name: str(host.address) for host in file.hosts.values()}
    if file.natbox is not None:
        addresses[NATBOX] = str(file.natbox.address)
    for name, address in holders.items():
        if addresses.setdefault(name, address) != address:
            raise CaasError(
                Code.REFUSED,
                f"{name.removeprefix(':')} is at {addresses[name]} in the file, and {file.name} is on it at {address}",
                hint="give it its old address back, or take the cluster down first",
            )
    natbox = addresses.pop(NATBOX, "")
    agents = {name: fleet.agent(name, address) for name, address in addresses.items()}
    natbox_client = fleet.natbox(natbox) if natbox else None
    answers = await gather_all([_ask(agent, file.name) for agent in agents.values()], _ask_natbox(natbox_client))
    *found, natbox_probe = answers
    return Survey(
        cluster=file.name,
        addresses=addresses,
        hosts=dict(zip(agents, found, strict=True)),  # type: ignore[arg-type]
        natbox=natbox_client,
        natbox_probe=natbox_probe,  # type: ignore[arg-type]
    )


def known_generation(probe: ProbeReply, cluster: str) -> int:
    """The highest generation of *cluster* that who answered has, or removed; 0 where it knows none."""
    return max(probe.generations.get(cluster, 0), probe.removed.get(cluster, 0))


async def gather_all(first: Iterable[object], *more: object) -> list[object]:
    """Await all; where any failed, raise one error with every failure in it."""
    results = await asyncio.gather(*first, *more, return_exceptions=True)  # type: ignore[call-overload]
    combine([result for result in results if isinstance(result, BaseException)])
    return list(results)


def combine(failures: Sequence[BaseException]) -> None:
    """Raise *failures* as one: anything unexpected as it is, else one CaasError with a line and hint for each."""
    for failure in failures:
        if not isinstance(failure, CaasError):
            raise failure
    errors = [failure for failure in failures if isinstance(failure, CaasError)]
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
    raise CaasError(errors[0].code, "\n".join(error.message for error in errors), hint="\n".join(hints))


async def _ask(agent: AgentClient, cluster: str) -> HostSurvey:
    probe, seen = await asyncio.gather(agent.probe(cluster=cluster), agent.observe(cluster))
    return HostSurvey(agent=agent, probe=probe, seen=seen)


async def _ask_natbox(client: NatBoxClient | None) -> natbox_pb2.NatBoxProbeReply | None:
    return await client.probe() if client else None


def _facts(probe: agent_pb2.ProbeReply, address: str) -> HostFacts:
    underlay = [link.mtu for link in probe.links if address in (one.partition("/")[0] for one in link.addresses)]
    return HostFacts(
        underlay_mtu=min(underlay, default=None),
        taken=frozenset(probe.taken_links),
        taken_subnets=tuple(IPv4Network(subnet) for subnet in probe.taken_subnets),
        taken_ports=frozenset(probe.taken_ports),
        links={link.name: link.mtu for link in probe.links},
        routes=tuple(IPv4Network(route) for route in probe.routes),
        datapath=Datapath(vlan=probe.datapath_vlan, ipip=probe.datapath_ipip, vxlan=probe.datapath_vxlan),
        keyless=probe.keyless,
    )


def _natbox_facts(probe: natbox_pb2.NatBoxProbeReply) -> HostFacts:
    return HostFacts(
        links={probe.trunk: probe.trunk_mtu} if probe.trunk_mtu else {},
        uplink=tuple(IPv4Interface(address).ip for address in probe.uplink_addresses),
    )
