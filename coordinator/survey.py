"""Asks every host of a cluster file, at once, what it is and what it has. Changes nothing.

Who does not answer is away: for a host that the cluster is on already, what it answered last takes the place of an
answer, and what it was sent since is taken to be there (docs/adr/0011-hosts-away.md).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from typing import TypeGuard

from google.protobuf import json_format

from coordinator.compiling import Facts, HostFacts, Pair, Remembered, Way
from coordinator.config import ClusterFile
from coordinator.fleet import AgentClient, Fleet, NatBoxClient
from coordinator.journal import NATBOX, Journal, Record, Seen
from proto import agent_pb2, natbox_pb2, types_pb2
from proto.errors import CaasError, Code
from proto.model import ClusterHost, Container, Datapath
from proto.wire import cluster_host_from_wire, container_from_wire

#: How a call fails where the other side is not there, or hangs.
AWAY = (Code.UNREACHABLE, Code.TIMEOUT)

ProbeReply = agent_pb2.ProbeReply | natbox_pb2.NatBoxProbeReply


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSurvey:
    """One host's answers; where it is `away` (why so, "" where it answered) the last ones that it gave.

    `sent` is what it may have been given since then, oldest first; `generation` the last one that it is known to have
    had then. A probe without a host's name was never answered.
    """

    agent: AgentClient
    probe: agent_pb2.ProbeReply
    seen: agent_pb2.ObserveReply
    away: str = ""
    sent: tuple[ClusterHost, ...] = ()
    generation: int = 0

    def containers(self) -> list[Container]:
        """What of the cluster is there, or may be there."""
        found = {one.hostname: one for one in (container_from_wire(seen.container) for seen in self.seen.containers)}
        return [*(found | {one.hostname: one for desired in self.sent for one in desired.state.containers}).values()]

    def ports(self, cluster: str) -> Iterator[tuple[str, int]]:
        """The forwarded port of each container of *cluster* that has one."""
        for forward in self.seen.network.forwards:
            if forward.mark.cluster == cluster:
                yield forward.mark.object, forward.port
        for desired in self.sent:
            for one in desired.state.forwards:
                yield one.mark.object, one.port


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that was answered. `hosts` are those of the file and those the cluster was on before,
    `addresses` theirs; `ways` is what was found between them (coordinator.pairs). `natbox_away` says why NATBox gave
    no answer; its last one is in `natbox_probe` then."""

    cluster: str
    addresses: Mapping[str, str]
    hosts: Mapping[str, HostSurvey]
    natbox: NatBoxClient | None
    natbox_probe: natbox_pb2.NatBoxProbeReply | None
    natbox_away: str = ""
    ways: Mapping[Pair, Way] = field(default_factory=dict)

    @property
    def present(self) -> Mapping[str, HostSurvey]:
        """The hosts that answered."""
        return {name: host for name, host in self.hosts.items() if not host.away}

    @property
    def answering(self) -> frozenset[str]:
        """The names of all that answered, NATBox's among them."""
        is_natbox_there = self.natbox_probe is not None and not self.natbox_away
        return frozenset(self.present) | ({NATBOX} if is_natbox_there else set())

    @property
    def away(self) -> Mapping[str, str]:
        """Who did not answer, and why: hosts by name, NATBox as journal.NATBOX."""
        found = {name: host.away for name, host in self.hosts.items() if host.away}
        return found | ({NATBOX: self.natbox_away} if self.natbox_away else {})

    def facts(self) -> Facts:
        """As compile takes them."""
        hosts = {
            name: _facts(found.probe, self.addresses.get(name, ""))
            for name, found in self.hosts.items()
            if found.probe.host
        }
        is_told = self.natbox_probe is not None and not (self.natbox_away and not self.natbox_probe.trunk)
        natbox = _natbox_facts(self.natbox_probe) if is_told and self.natbox_probe else None
        return Facts(hosts=hosts, natbox=natbox, pairs=self.ways)

    def remembered(self) -> Remembered:
        """The cluster's containers, as the agents see them: they know better than any journal."""
        return Remembered.of(
            {name: found.containers() for name, found in self.hosts.items()},
            ports={name: port for found in self.hosts.values() for name, port in found.ports(self.cluster)},
        )

    def generation(self) -> int:
        """The highest generation of the cluster that any process has, or removed; 0 where none knows any."""
        probes: list[ProbeReply] = [host.probe for host in self.hosts.values()]
        probes += [self.natbox_probe] if self.natbox_probe else []
        return max((known_generation(probe, self.cluster) for probe in probes), default=0)

    def taken_back(self) -> list[str]:
        """Hosts that took the network part of the cluster's last change back: it needs another generation."""
        return [name for name, host in self.present.items() if self.cluster in host.probe.taken_back]


async def survey(fleet: Fleet, file: ClusterFile, holders: Mapping[str, str], journal: Journal | None = None) -> Survey:
    """Ask the hosts and NATBox of *file*, and *holders*: those that may have something of the cluster.

    Where one is away, the *journal* tells what is known of it; UNREACHABLE where that is nothing. Every failure is in
    the one error that is raised. REFUSED where a holder has another address in the file.
    """
    addresses = {host.name: str(host.address) for host in file.hosts.values()}
    if file.natbox is not None:
        addresses[NATBOX] = str(file.natbox.address)
    for name, address in holders.items():
        if addresses.setdefault(name, address) != address:
            raise CaasError(
                Code.REFUSED,
                f"{name.removeprefix(':')} is at {addresses[name]} in the file, and {file.name} is on it at {address}",
                hint="give it its old address back, or take it out of the file first (caas up FILE --remove; with "
                "--forget where the old one is dead)",
            )
    natbox = addresses.pop(NATBOX, "")
    agents = {name: fleet.agent(name, address) for name, address in addresses.items()}
    natbox_client = fleet.natbox(natbox) if natbox else None
    asked = [*(_ask(agent, file.name) for agent in agents.values()), _ask_natbox(natbox_client)]
    *answers, probe = await asyncio.gather(*asked, return_exceptions=True)
    failed = any(isinstance(answer, BaseException) for answer in (*answers, probe))
    known = _Known.of(journal if failed else None, file)
    hosts = {
        name: known.host(name, agent, answer) if isinstance(answer, BaseException) else answer
        for (name, agent), answer in zip(agents.items(), answers, strict=True)
    }
    natbox_probe = known.natbox(probe) if isinstance(probe, BaseException) else probe
    combine([found for found in (*hosts.values(), natbox_probe) if isinstance(found, BaseException)])
    return Survey(
        cluster=file.name,
        addresses=addresses,
        hosts=hosts,  # type: ignore[arg-type]
        natbox=natbox_client,
        natbox_probe=natbox_probe,  # type: ignore[arg-type]
        natbox_away=probe.message if isinstance(probe, CaasError) else "",
    )


def known_generation(probe: ProbeReply, cluster: str) -> int:
    """The highest generation of *cluster* that who answered has, or removed; 0 where it knows none."""
    return max(probe.generations.get(cluster, 0), probe.removed.get(cluster, 0))


def is_away(failure: BaseException) -> TypeGuard[CaasError]:
    """Whether a call failed because its other side is not there, or hangs."""
    return isinstance(failure, CaasError) and failure.code in AWAY


def _unknown(failure: CaasError, cluster: str) -> CaasError:
    """What was never asked may be anything: other MTUs, addresses and names that are taken."""
    hint = f"{cluster} was never on it, so nothing is known of it: mend it, or leave it out of the file for now"
    return CaasError(Code.UNREACHABLE, failure.message, hint=f"{hint}\n{failure.hint}".rstrip())


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal knows of a cluster's hosts."""

    file: ClusterFile
    seen: Mapping[str, Seen]
    desired: Mapping[str, ClusterHost]
    has_natbox: bool

    @classmethod
    def of(cls, journal: Journal | None, file: ClusterFile) -> _Known:
        if journal is None or (record := journal.find(file.name)) is None:
            return cls(file, {}, {}, False)
        return cls(file, journal.seen(file.name), desired_of(record), NATBOX in journal.holders(file.name))

    def host(self, name: str, agent: AgentClient, failure: BaseException) -> HostSurvey | BaseException:
        """The host as it was last, and as it may be now; the *failure* where that does not make it away, or known."""
        seen, desired = self.seen.get(name), self.desired.get(name)
        if not is_away(failure):
            return failure
        if seen is None and desired is None and name in self.file.hosts:
            return _unknown(failure, self.file.name)
        sent = [cluster_host_from_wire(types_pb2.ClusterHost.FromString(seen.desired))] if seen and seen.desired else []
        return HostSurvey(
            agent=agent,
            # A journal from before answers were kept has none.
            probe=agent_pb2.ProbeReply.FromString(seen.probe if seen else b""),
            seen=agent_pb2.ObserveReply.FromString(seen.observed if seen else b""),
            away=failure.message,
            sent=(*sent, *([desired] if desired else [])),
            generation=seen.generation if seen else 0,
        )

    def natbox(self, failure: BaseException) -> natbox_pb2.NatBoxProbeReply | BaseException:
        """Its last answer; the *failure* as with hosts."""
        if not is_away(failure):
            return failure
        if (seen := self.seen.get(NATBOX)) is None and not self.has_natbox:
            return _unknown(failure, self.file.name)
        return natbox_pb2.NatBoxProbeReply.FromString(seen.probe if seen else b"")


def desired_of(record: Record) -> dict[str, ClusterHost]:
    """What each host is to have since the cluster of *record* was last worked on."""
    if not record.remembered:
        return {}
    return {
        host: cluster_host_from_wire(json_format.ParseDict(state, types_pb2.ClusterHost()))
        for host, state in json.loads(record.remembered)["hosts"].items()
    }


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
