"""compile-64000: `caas compile --json` of 1,000 hosts with 64 containers each: seconds, and the process's largest RSS.

One VLAN network over all hosts; and, by itself, one routed network, where each host has a route to each other one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.asked import ROOT
from tests.bench.figure import Figure, Goal, make_limited, make_unmeasured

HOSTS, PER_HOST = 1000, 64
SECONDS, GIGABYTES = 10.0, 2.0
SOURCE = "the limit of issue 3"
NETWORKS = {
    "": "{vlan: 100, subnet: 172.16.0.0/16, gateway: 172.16.255.254}",
    "-routed": "{subnet: 172.16.0.0/15, overlay: ipip}",
}
RUNS = {"": 3, "-routed": 1}
FIGURES = tuple(f"compile-64000{kind}{what}" for kind in NETWORKS for what in ("", "-memory"))
PATIENCE = 90.0


def make_file(kind: str) -> str:
    """The cluster file, as a person or a program would write it."""
    network = NETWORKS[kind]
    trunk, natbox = (", trunk: eth1", "natbox: {address: 10.200.0.1, trunk: eth1, uplink: eth2}\n")
    if kind == "-routed":
        trunk, natbox = "", ""
    hosts = "".join(
        f"  host{number}: {{address: 10.1.{number >> 8}.{number & 255}{trunk}}}\n" for number in range(1, HOSTS + 1)
    )
    containers = "".join(
        f"  n{host:04d}-{number:02d}: {{host: host{host}, network: cluster, roles: [{_roles(host, number)}]}}\n"
        for host in range(1, HOSTS + 1)
        for number in range(1, PER_HOST + 1)
    )
    return (
        f"name: large\nhosts:\n{hosts}{natbox}networks:\n  cluster: {network}\n"
        f"containers:\n{containers}nova: {{virt_driver: fake}}\n"
    )


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    for kind in NETWORKS:
        seconds, memory = f"compile-64000{kind}", f"compile-64000{kind}-memory"
        if wanted.isdisjoint((seconds, memory)):
            continue
        file = folder / f"large{kind}.yaml"
        file.write_text(make_file(kind))
        try:
            runs = [_run(file, folder / "compiled.json") for _ in range(RUNS[kind])]
        except subprocess.TimeoutExpired:
            why = f"stopped after {PATIENCE:g} s"
            figures = [
                make_unmeasured(seconds, unit="s", goal=Goal(most=SECONDS), why=why),
                make_unmeasured(memory, unit="GB", goal=Goal(most=GIGABYTES), why=why),
            ]
        else:
            figures = [
                make_limited(seconds, [one for one, _ in runs], unit="s", limit=SECONDS, source=SOURCE),
                make_limited(memory, [one for _, one in runs], unit="GB", limit=GIGABYTES, source=SOURCE),
            ]
        yield from (one for one in figures if one.name in wanted)


def _roles(host: int, number: int) -> str:
    return "controller, compute" if (host, number) == (1, 1) else "compute"


def _run(file: Path, target: Path) -> tuple[float, float]:
    """Seconds and GB of one run; AssertionError where it failed or lost containers."""
    began = time.perf_counter()
    with target.open("wb") as output:
        argv = [sys.executable, "-m", "coordinator.cli.main", "compile", str(file), "--json"]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=output)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if seconds >= PATIENCE:
        raise subprocess.TimeoutExpired(argv, PATIENCE)
    assert process.returncode == 0, f"caas compile {file.name}: status {process.returncode}"
    document = json.loads(target.read_bytes())
    made = sum(len(host["containers"]) for host in document["hosts"].values())
    assert made == HOSTS * PER_HOST, f"caas compile {file.name}: {made} containers"
    return seconds, usage.ru_maxrss * 1024 / 1e9
