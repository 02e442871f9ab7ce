"""A file of Rally's with devstack_repo, through every process: a small repository of ours, SSH with the lab's key.

No nova: what stack.sh is, is ours. It writes down what it was given, and leaves a nova.conf.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.demonstration import Demonstration
from tests.support.netns import poll_until

STACK = """#!/bin/sh
set -e
echo "$(id -un) $(pwd)" >> ~/given
cat ~/devstack/local.conf > ~/local.conf.given
sudo mkdir -p /etc/nova
printf '[DEFAULT]\\nmy_ip = 0.0.0.0\\n' | sudo tee /etc/nova/nova.conf > /dev/null
echo stacked
"""
HOST1, HOST2, PORT = "192.168.2.25", "192.168.2.26", 8079
CLUSTER = "stacked"
CONTROLLER, FIRST, CLONE = "devstack-host1", "node-10-100-2-0-000", "node-10-100-2-0-001"


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.net"]
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Demonstration]:
    """A lab of its own, without a demonstration in it."""
    made = Demonstration(f"stack{os.getpid()}")
    made.caas("image", "build", "base")
    try:
        made.caas("lab", "up", "--name", made.lab)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def repo(lab: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of our repository, served by host1 over HTTP."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "devstack").mkdir()
    _git(folder, "init", "-q", "-b", "stable/x", "devstack")
    (folder / "devstack/stack.sh").write_text(STACK)
    (folder / "devstack/stack.sh").chmod(0o755)
    _git(folder / "devstack", "add", "stack.sh")
    _git(folder / "devstack", "commit", "-q", "-m", "one")
    _git(folder / "devstack", "update-server-info")
    enter = ["ip", "netns", "exec", lab.namespace("host1")]
    argv = [*enter, sys.executable, "-m", "http.server", "-d", str(folder), str(PORT)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{HOST1}:{PORT}/devstack/.git"
    finally:
        server.kill()
        server.wait()


def make_file(repo: str) -> dict[str, Any]:
    """A controller on host1, and on host2 a compute and its clone."""
    engine = {"type": "DevstackEngine", "devstack_repo": repo, "devstack_branch": "stable/x"}
    node = {
        "type": "LxcEngine",
        "distribution": "debian",
        "container_name": "node",
        "containers_per_host": 2,
        "start_lxc_network": "10.100.2.0/24",
        "tunnel_to": [HOST1],
        "provider": {"type": "ExistingServers", "credentials": [{"user": "root", "host": HOST2}]},
        "engine": {**engine, "local_conf": {"MYSQL_HOST": "{controller_ip}", "ENABLED_SERVICES+": ",-n-cpu"}},
    }
    servers = {"type": "ExistingServers", "credentials": [{"user": "root", "host": HOST1}]}
    return {"type": "MultihostEngine", "controller": {**engine, "provider": servers}, "nodes": [node]}


def login(lab: Demonstration, host: str, key: Path, address: str, command: str) -> subprocess.CompletedProcess[str]:
    """*command* by the stock client, from the namespace of *host*."""
    options = "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null IdentitiesOnly=yes ConnectTimeout=5"
    argv = ["ip", "netns", "exec", lab.namespace(host), "ssh", "-F", "none", "-i", str(key)]
    argv += [word for option in options.split() for word in ("-o", option)]
    return subprocess.run([*argv, f"root@{address}", command], capture_output=True, text=True, timeout=60, check=False)


def test_life(lab: Demonstration, repo: str, tmp_path: Path) -> None:
    file = tmp_path / f"{CLUSTER}.json"
    file.write_text(json.dumps(make_file(repo)))
    lab.caas("up", str(file))

    def inside(container: str, command: str) -> str:
        return lab.inside(CLUSTER, container, ["sh", "-c", command]).decode().strip()

    containers = {one["name"]: one["address"].partition("/")[0] for one in _status(lab)["containers"]}
    assert set(containers) == {CONTROLLER, FIRST, CLONE}
    for name in containers:
        assert inside(name, "cat /home/rally/given") == "rally /home/rally", "once, in the first; the clone has a copy"
    given = inside(FIRST, "cat /home/rally/local.conf.given").splitlines()
    assert given[0] == "[[local|localrc]]"
    assert given[-2:] == [f"MYSQL_HOST={containers[CONTROLLER]}", "ENABLED_SERVICES+=,-n-cpu"]
    for name in (FIRST, CLONE):
        assert inside(name, "grep my_ip /etc/nova/nova.conf") == f"my_ip = {containers[name]}"
    assert _status(lab)["state"] == "up"
    assert lab.document("plan", str(file), "--json") == {"hosts": {}, "natbox": [], "steps": []}
    _check_ssh(lab, file, containers, tmp_path)
    lab.caas("down", CLUSTER)


def _status(lab: Demonstration) -> Any:
    return lab.document("status", CLUSTER, "--json")


def _check_ssh(lab: Demonstration, file: Path, containers: dict[str, str], tmp_path: Path) -> None:
    key = Path(lab.document("lab", "status", "--name", lab.lab, "--json")["ssh_key"])
    assert key.stat().st_mode & 0o777 == 0o600
    names = {}
    for name, host in ((CONTROLLER, "host1"), (FIRST, "host2"), (CLONE, "host2")):
        done = login(lab, host, key, containers[name], "hostname; cat /etc/ssh/ssh_host_ed25519_key.pub")
        assert done.returncode == 0, done.stderr
        names[name], _, _ = done.stdout.partition("\n")
    assert names == {name: name for name in containers}
    # A key that the host lets in from now on is let in by its containers after the next `up`.
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    assert login(lab, "host2", other, containers[FIRST], "true").returncode == 255
    with (key.parents[1] / "machines/host2/authorized_keys").open("a") as authorized:
        authorized.write(other.with_suffix(".pub").read_text())
    actions = lab.document("plan", str(file), "--json")["hosts"]
    assert {host: [(one["verb"], one["name"]) for one in listed["actions"]] for host, listed in actions.items()} == {
        "host2": [("change", f"{CLUSTER}.{FIRST}"), ("change", f"{CLUSTER}.{CLONE}")]
    }
    pids = {one["name"]: one["pid"] for one in _status(lab)["containers"]}
    lab.caas("up", str(file))
    poll_until(
        lambda: login(lab, "host2", other, containers[FIRST], "true").returncode == 0,
        deadline=10,
        describe=lambda: login(lab, "host2", other, containers[FIRST], "true").stderr,
    )
    assert {one["name"]: one["pid"] for one in _status(lab)["containers"]} == pids, "nothing was restarted"
