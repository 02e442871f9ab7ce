"""`caas status`: what the hosts and nova say now, not what was wanted."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from coordinator.away import describe_lag, show_action
from coordinator.fleet import Fleet
from coordinator.journal import NATBOX, Behind, Journal
from coordinator.known import Known
from coordinator.natboxes import describe_counters
from coordinator.nova import nova_status
from coordinator.pairs import describe
from proto import agent_pb2
from proto.errors import CaasError
from proto.model import Verb

VERBS = frozenset(verb.value for verb in Verb)
#: The journal's states as the command line's contract calls them.
SHOWN = {"changing": "deploying", "removing": "deploying", "leaving": "deploying", "broken": "failed"}
ABSENT: dict[str, Any] = {
    "generation": 0,
    "hosts": {},
    "containers": [],
    "nova": {"services": [], "computes_up": 0},
    "behind": {},
}


def list_clusters(journal: Journal) -> dict[str, Any]:
    """Every known cluster with its state as it was last left."""
    return {
        "clusters": [
            {"cluster": record.name, "state": SHOWN.get(record.state, record.state), "generation": record.generation}
            for record in journal.clusters()
        ]
    }


async def status(fleet: Fleet, journal: Journal, name: str) -> dict[str, Any]:
    """One cluster: hosts, containers, nova's services. An unknown name is `absent`."""
    if journal.find(name) is None:
        return {"cluster": name, "state": "absent", **ABSENT}
    known = Known.find(fleet, journal, name)
    names = [host for host in known.file.hosts if known.record.state != "leaving" or host in journal.leaving(name)]
    hosts, nova, behind = await asyncio.gather(
        asyncio.gather(*(_look(known, host) for host in names)), _nova(known), find_behind(known, journal)
    )
    containers = [entry for _, _, listed, _ in hosts for entry in listed]
    found = {host: described for host, described, _, _ in hosts}
    document = {
        "cluster": name,
        "state": _state(known, found, containers, nova),
        "generation": known.record.generation,
        "hosts": found,
        "containers": containers,
        "nova": {"services": nova.get("services", []), "computes_up": nova.get("computes_up", 0)},
        "behind": behind,
        "drift": sorted((event for *_, drift in hosts for event in drift), key=lambda event: float(event["time"])),
    }
    if known.file.routed:
        document["overlay"] = describe(known.file, known.record)
    if known.file.natbox is not None:
        document["natbox"] = await _natbox(known)
    return document


async def find_behind(known: Known, journal: Journal) -> dict[str, Any]:
    """Who is not as the file says, by name: how far, since when and why, and what is pending as far as it is known."""
    rows, leaving = journal.behind(known.file.name), journal.leaving(known.file.name)
    seen, addresses = journal.seen(known.file.name), journal.holders(known.file.name)

    async def describe(holder: str, row: Behind) -> dict[str, Any]:
        have, pending = seen[holder].generation if holder in seen else 0, row.pending
        desired = known.hosts.get(holder)
        if holder in addresses and holder != NATBOX:
            with contextlib.suppress(CaasError):
                agent = known.fleet.agent(holder, addresses[holder])
                have = (await agent.probe()).generations.get(known.file.name, 0)
                actions = await agent.plan(desired) if desired and holder not in leaving else ()
                steps = [one for one in pending if one.partition(" ")[0] not in VERBS]
                pending = (*map(show_action, actions), *steps) if desired else pending
        wanted = leaving.get(holder, known.record.generation)
        return describe_lag(replace(row, pending=pending), have=have, wanted=wanted, leaving=holder in leaving)

    found = await asyncio.gather(*(describe(holder, row) for holder, row in rows.items()))
    return {holder.removeprefix(":"): one for holder, one in zip(rows, found, strict=True)}


Looked = tuple[str, dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]


async def _look(known: Known, host: str) -> Looked:
    """The host's name; what it is, its containers, what others changed there of late."""
    agent = known.agent(host)
    try:
        probe, seen = await asyncio.gather(agent.probe(), agent.observe(known.file.name))
    except CaasError as exc:
        away: dict[str, Any] = {"agent": exc.code.value, "datapath": {}, "message": exc.message}
        return host, away, _missing(known, host, "unknown"), []
    described = {
        "agent": "up",
        "datapath": {"vlan": probe.datapath_vlan, "ipip": probe.datapath_ipip, "vxlan": probe.datapath_vxlan},
        "generation": probe.generations.get(known.file.name, 0),
    }
    if known.file.name in probe.taken_back:
        described["taken_back"] = True
    if known.file.name in probe.unconfirmed:
        described["unconfirmed"] = round(probe.unconfirmed[known.file.name], 1)
    there = {item.container.hostname: _describe(host, item) for item in seen.containers}
    missing = [entry for entry in _missing(known, host, "absent") if entry["name"] not in there]
    return host, described, [*there.values(), *missing], [describe_drift(host, event) for event in seen.drift]


def describe_drift(host: str, event: agent_pb2.Drift) -> dict[str, Any]:
    """What others changed on *host*, as documents have it."""
    return {
        "host": host,
        "time": event.time,
        "kind": event.kind,
        "name": event.name,
        "found": event.found,
        "mended": event.mended,
        "by": event.by,
        "hint": event.hint,
    }


def _describe(host: str, seen: agent_pb2.ObserveReply.Seen) -> dict[str, Any]:
    container = seen.container
    return {
        "name": container.hostname,
        "host": host,
        "address": container.nic.address,
        "state": "running" if container.running else "stopped",
        "pid": seen.pid,
        "roles": list(container.roles),
        "memory_bytes": seen.memory_bytes,
    }


def _missing(known: Known, host: str, state: str) -> list[dict[str, Any]]:
    desired = known.hosts[host].state.containers if host in known.hosts else ()
    return [
        {
            "name": container.hostname,
            "host": host,
            "address": str(container.nic.address),
            "state": state,
            "pid": 0,
            "roles": list(container.roles),
            "memory_bytes": 0,
        }
        for container in desired
    ]


async def _nova(known: Known) -> dict[str, Any]:
    try:
        return await nova_status(known.api_shell())
    except CaasError as exc:
        return {"services": [], "computes_up": 0, "message": exc.message}


async def _natbox(known: Known) -> dict[str, Any]:
    assert known.file.natbox is not None
    try:
        reply = await known.fleet.natbox(str(known.file.natbox.address)).counters(known.file.name)
    except CaasError as exc:
        return {"agent": exc.code.value, "message": exc.message}
    return {
        "agent": "up",
        "counters": [
            {"vid": entry.vid, "network": entry.network, **describe_counters(entry)} for entry in reply.counters
        ],
        "alarms": list(reply.alarms),
    }


def _state(known: Known, hosts: dict[str, Any], containers: list[dict[str, Any]], nova: dict[str, Any]) -> str:
    """up: all as wanted and answering; degraded: it was up once, and something is not; else as the journal says."""
    if (shown := SHOWN.get(known.record.state, known.record.state)) != "up":
        return shown
    computes = len(known.site.computes) if known.file.has_nova else 0
    right = (
        all(host["agent"] == "up" and not host.get("taken_back") for host in hosts.values())
        and all(entry["state"] == "running" for entry in containers)
        and nova.get("computes_up", 0) >= computes
        and all(service["state"] == "up" for service in nova["services"])
    )
    return "up" if right else "degraded"
