"""Runs the program in every container at once and collects what they say."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.reach import inside
from coordinator.reach.judge import GATEWAY, Pair, Report, judge
from coordinator.steps import Shell
from proto.errors import CaasError
from proto.model import Container

PYTHON = ("python3", "-I", "-S", "-")
#: How long the others may take to start, before anybody asks: 64 on two cores take about a second.
SETTLE_LEAST, SETTLE_EACH = 0.3, 0.02
LISTEN = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One container, and whom it is to ask: name -> address."""

    name: str
    address: str
    mtu: int
    asks: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Every pair, judged."""

    pairs: tuple[Pair, ...]


def targets_of(containers: Sequence[Container]) -> tuple[Target, ...]:
    """Whom each container should reach: all others of its subnet, and its gateway where it has one."""
    found = []
    for one in containers:
        asks = {
            other.hostname: str(other.nic.address.ip)
            for other in containers
            if other is not one and other.nic.address.network == one.nic.address.network
        }
        if one.nic.gateway is not None:
            asks[GATEWAY] = str(one.nic.gateway)
        found.append(Target(name=one.hostname, address=str(one.nic.address.ip), mtu=one.nic.mtu, asks=asks))
    return tuple(found)


async def measure(targets: Sequence[Target], shells: Mapping[str, Shell]) -> Reach:
    """One burst from every container at once; takes about two seconds, and a little more with many of them."""
    settle = SETTLE_LEAST + SETTLE_EACH * len(targets)
    reports = await asyncio.gather(*(_ask(target, shells[target.name], settle) for target in targets))
    return Reach(pairs=judge({report.name: report for report in reports}))


async def _ask(target: Target, shell: Shell, settle: float) -> Report:
    job = {
        "own": target.address,
        "targets": list(target.asks.values()),
        "mtu": target.mtu,
        "link": "eth0",
        "settle": settle,
        "seconds": LISTEN,
    }
    answer: dict[str, Any] = {}
    failure = ""
    try:
        done = await shell.run(PYTHON, stdin=_program(job), timeout=settle + LISTEN + 30)
        answer = json.loads(done.stdout)
    except CaasError as exc:
        failure = f"{target.name} cannot be asked: {exc.message}"
    except ValueError:
        failure = f"{target.name} cannot be asked: it answered nonsense"
    return Report(
        name=target.name,
        address=target.address,
        targets=target.asks,
        answered=answer.get("answered", {}),
        refused=answer.get("refused", {}),
        heard=answer.get("heard", {}),
        twins=answer.get("twins", ()),
        failure=failure,
    )


def _program(job: Mapping[str, Any]) -> bytes:
    return f"{inspect.getsource(inside)}\nmain({dict(job)!r})\n".encode()
