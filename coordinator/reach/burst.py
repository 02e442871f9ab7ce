"""Asks every host's agent for a burst from all its containers at once, and what could be the cause of what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from coordinator.reach.pairs import GATEWAY, Target
from coordinator.reach.report import HostReport, make_unasked, read_host_report
from proto import agent_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import Finding

AWAY = (Code.UNREACHABLE, Code.TIMEOUT)
#: Seconds that every host has to make its sockets before any of them asks, and those that it listens then.
SETTLE, LISTEN = 0.4, 2.2


class Agent(Protocol):
    """What a burst needs of coordinator.fleet.AgentClient."""

    async def burst(self, request: pb.BurstRequest) -> pb.BurstReply: ...
    async def examine(self, cluster: str) -> Sequence[Finding]: ...


async def measure(cluster: str, targets: Mapping[str, Target], agents: Mapping[str, Agent]) -> dict[str, HostReport]:
    """One burst from every host at once; takes about one second, or three where something fails.

    A host whose agent is away is a report, too.
    """
    by_host: dict[str, list[Target]] = {host: [] for host in agents}
    for target in targets.values():
        by_host[target.host].append(target)
    asked = {host: found for host, found in by_host.items() if found}
    reports = await asyncio.gather(*(_ask(cluster, host, agents[host], found) for host, found in asked.items()))
    return {report.host: report for report in reports}


async def examine(
    cluster: str, reports: Mapping[str, HostReport], agents: Mapping[str, Agent]
) -> dict[str, Sequence[Finding]]:
    """What each host that answers finds about itself."""
    answering = [host for host, report in reports.items() if not report.failure]
    found = await asyncio.gather(*(agents[host].examine(cluster) for host in answering), return_exceptions=True)
    findings: dict[str, Sequence[Finding]] = {}
    for host, each in zip(answering, found, strict=True):
        if isinstance(each, BaseException):
            if not isinstance(each, CaasError):
                raise each
            continue  # the burst's own evidence has to do
        findings[host] = each
    return findings


async def _ask(cluster: str, host: str, agent: Agent, targets: Sequence[Target]) -> HostReport:
    request = pb.BurstRequest(
        cluster=cluster,
        askers=[
            pb.BurstRequest.Asker(
                hostname=one.name,
                address=one.address,
                mtu=one.mtu,
                targets=list(one.asks.values()),
                # Who is asked, asks, too; but for the gateway.
                askers=len(one.asks.keys() - {GATEWAY}),
            )
            for one in targets
        ],
        settle=SETTLE,
        seconds=LISTEN,
    )
    try:
        reply = await agent.burst(request)
        return read_host_report(host, targets, reply.report, reply.tunnel_drops)
    except CaasError as exc:
        return make_unasked(host, targets, exc.message, is_away=exc.code in AWAY)
