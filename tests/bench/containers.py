"""containers-64: 64 small containers through the agent's RPC, against a bare loop of liblxc's calls (bare_lxc)."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from agent.containers.cgroups import Cgroups
from agent.containers.config import cgroup_base
from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from agent.containers.liblxc import remove_lock
from agent.containers.trees import remove_tree
from coordinator.lab.certificates import Authority, Bearer
from proto.names import make_bridge_name
from tests.bench.asked import ROOT, Asked, enter
from tests.bench.bare_lxc import CLUSTER as BARE
from tests.bench.figure import Figure, Goal, make_paired
from tests.bench.many import GATEWAY, IMAGE, TRUNK, VID, make_containers
from tests.support.netns import Namespaces, poll_until, run

#: Issue 3.
GOAL = Goal(ratio_most=1.5)
FIGURES = ("containers-64",)
PAIRS = 5
HOST, LISTEN = "bench", "127.0.0.1:7443"


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The one figure. Works in *folder*, which must take overlays as /var/lib/caas does."""
    image = build_image(ImageStore(folder / "images"), IMAGE, say=lambda text: None).build
    with ExitStack() as around:
        namespaces = Namespaces()
        around.callback(namespaces.close)
        client = around.enter_context(
            run_agent(add_host(namespaces, "agent"), folder, module="tests.bench.agent_client")
        )
        bare = add_host(namespaces, "bare")
        bridge = make_bridge_name(VID)
        run(f"ip link add {bridge} type bridge && ip link set {bridge} up", netns=bare)
        run(f"ip address add {GATEWAY}/24 dev {bridge}", netns=bare)
        ours, theirs = [], []
        for number in range(PAIRS + 1):  # the first pair fills caches and counts for nothing
            if number % 2:
                ours.append(client.ask("go"))
                theirs.append(_run_bare(bare, folder / f"bare{number}", image.rootfs))
            else:
                theirs.append(_run_bare(bare, folder / f"bare{number}", image.rootfs))
                ours.append(client.ask("go"))
    for answer in (*ours, *theirs):
        assert answer["running"] == answer["wanted"], f"{answer['running']} containers of {answer['wanted']} ran"
    yield make_paired(
        "containers-64",
        [(one["seconds"], other["seconds"]) for one, other in zip(ours[1:], theirs[1:], strict=True)],
        unit="s",
        peer="a bare loop of liblxc calls",
        goal=GOAL,
        detail=_describe(ours[1:]),
    )


def _describe(answers: list[dict[str, Any]]) -> tuple[str, ...]:
    stages = answers[0]["stages"]
    lines = [f"{median(one['stages'][stage] for one in answers):6.3f} s  {stage}" for stage in stages]
    removal = median(one["removal"] for one in answers)
    return (*lines, f"{removal:6.3f} s  (not in the figure: removing all of them again)")


def add_host(namespaces: Namespaces, name: str) -> str:
    """A namespace with a trunk whose other end is nobody's."""
    host, wire = namespaces.add(name), namespaces.add(f"{name}wire")
    run(f"ip link add {TRUNK} netns {host} type veth peer name {TRUNK} netns {wire}")
    for netns in (host, wire):
        run(f"ip link set {TRUNK} up", netns=netns)
    return host


@contextmanager
def run_agent(netns: str, folder: Path, *, module: str) -> Iterator[Asked]:
    """A client, *module*, of an agent of its own in *netns*. After a failure its containers are removed here."""
    authority = Authority(folder / "ca", "bench")
    address = ipaddress.IPv4Address(LISTEN.partition(":")[0])
    authority.issue(Bearer(uri=f"caas:agent:{HOST}", hostname=HOST, address=address), folder / "agent")
    authority.issue(Bearer(uri="caas:coordinator", hostname="coordinator", address=None), folder / "client")
    log, state = folder / "agent.log", folder / "state"
    options = {"--name": HOST, "--listen": LISTEN, "--tls": folder / "agent", "--state": state}
    options |= {"--run": folder / "run", "--images": folder / "images"}
    words = [str(word) for pair in options.items() for word in pair]
    with log.open("ab") as file:
        argv = [*enter(netns), sys.executable, "-m", "agent.rpc.main", *words]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=file, stderr=file)
    try:
        poll_until(lambda: "serves on" in log.read_text(), deadline=30, describe=log.read_text)
        client = Asked(netns, module, (LISTEN, folder / "client", HOST), log=folder / "client.log")
        try:
            yield client
        finally:
            client.close()
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            _sweep(state / "containers")


def _run_bare(netns: str, lxcpath: Path, image_rootfs: Path) -> dict[str, Any]:
    """One run of the bare loop in a folder of its own, which is removed."""
    lxcpath.mkdir()
    try:
        process = Asked(netns, "tests.bench.bare_lxc", (lxcpath, image_rootfs), log=lxcpath.with_suffix(".log"))
        try:
            answer: dict[str, Any] = process.ask("go")
        finally:
            process.close()
    finally:
        _sweep(lxcpath, *(container.name for container in make_containers(BARE)))
    return answer


def _sweep(lxcpath: Path, *names: str) -> None:
    """Kill what still runs below *lxcpath* and remove its cgroups, mounts, locks and files."""
    cgroups = Cgroups(cgroup_base(lxcpath))
    for name in names or [path.name for path in lxcpath.glob("*.*") if not path.name.startswith(".")]:
        cgroups.remove(name, patience=0.0, deadline=15.0)
        remove_tree(lxcpath / name)
        remove_lock(name, lxcpath)
    cgroups.remove_base()
    shutil.rmtree(lxcpath, ignore_errors=True)
