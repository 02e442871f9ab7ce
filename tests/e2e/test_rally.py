"""A deployment file of Rally from end to end, in the picture of its documentation: a controller, four computes on two
hosts, the host that deploys, and a router between all of them. Judged by the stock client, raw sockets and systemd.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.demonstration import ROOT, LabUser
from tests.support.wire import Frame, Tap

FILE, LAB = "examples/picture.json", "examples/picture-lab.yaml"
WORDS = ("--distribution", "ubuntu=debian:bookworm")
CLUSTER, CONTROLLER = "picture", "devstack-control"
COMPUTES = {
    "devstack-compute-10-100-1-0-000": "10.100.1.2",
    "devstack-compute-10-100-1-0-001": "10.100.1.3",
    "devstack-compute-10-100-2-0-000": "10.100.2.2",
    "devstack-compute-10-100-2-0-001": "10.100.2.3",
}
SOURCES = [name for name in COMPUTES if name.endswith("-000")]
ADDRESSES = {CONTROLLER: "10.0.3.2", **COMPUTES}
COMPUTES_1, COMPUTES_2, CONTROL, RALLY = "192.168.10.1", "192.168.10.2", "192.168.1.13", "10.1.1.20"
IPIP = 4
#: RFC 791 without options: what an outer header takes of 1500.
MTU = 1480


@pytest.fixture(scope="module")
def user() -> Iterator[LabUser]:
    """The lab of the picture with the cluster of the file in it."""
    found = LabUser(f"rally{os.getpid()}")
    try:
        found.caas("lab", "up", LAB, "--name", found.lab)
        print(found.caas("up", FILE, *WORDS).stdout.decode())
        yield found
    finally:
        found.caas("lab", "down", "--name", found.lab)


def outer(frame: Frame) -> tuple[str, str] | None:
    """Source and destination of an IPv4-in-IPv4 packet's outer header."""
    if frame.ethertype != 0x0800 or frame.payload[9] != IPIP:
        return None
    return _ends(frame.payload)


def inner(frame: Frame) -> tuple[str, str] | None:
    """Source and destination of the packet inside, or of the packet itself where it is bare."""
    if frame.ethertype != 0x0800:
        return None
    return _ends(frame.payload[20:] if frame.payload[9] == IPIP else frame.payload)


def _ends(packet: bytes) -> tuple[str, str]:
    return ".".join(map(str, packet[12:16])), ".".join(map(str, packet[16:20]))


def ping(user: LabUser, container: str, address: str, *options: str, ok: bool = True) -> None:
    words = ("ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", "2", *options, address)
    done = user.caas("exec", CLUSTER, container, "--", *words, status=None)
    assert (done.returncode == 0) == ok, f"{container} to {address} {options}: {done.stdout.decode()}"


def test_nova_lists_every_compute_and_booted_a_server_on_each(user: LabUser) -> None:
    services = user.openstack(CLUSTER, "compute", "service", "list", "--service", "nova-compute")
    assert {(entry["Host"], entry["State"]) for entry in services} == {(name, "up") for name in COMPUTES}
    deleted = user.openstack(CLUSTER, "server", "list", "--all-projects", "--deleted", "--long")
    assert {entry["Host"] for entry in deleted} == set(COMPUTES)


def test_names_and_addresses_are_rallys(user: LabUser) -> None:
    seen = {entry["name"]: entry for entry in user.document("status", CLUSTER, "--json")["containers"]}
    assert {name: entry["address"] for name, entry in seen.items()} == {
        name: f"{address}/24" for name, address in ADDRESSES.items()
    }
    hosts = user.inside(CLUSTER, SOURCES[0], ["cat", "/etc/hosts"]).decode()
    for name, address in ADDRESSES.items():
        assert f"{address} {name}\n" in hosts


def test_a_second_up_finds_nothing_to_do(user: LabUser) -> None:
    assert user.document("plan", FILE, *WORDS, "--json") == {"hosts": {}, "natbox": [], "steps": []}
    assert b"nothing to do, 4 computes up" in user.caas("up", FILE, *WORDS).stdout


def test_clones_share_nothing_that_must_be_their_own(user: LabUser) -> None:
    everywhere = {"/etc/machine-id", "/etc/hostname", "/sys/class/net/eth0/address"}
    files = (*everywhere, "/etc/ssh/ssh_host_ed25519_key.pub", "/var/lib/systemd/random-seed")
    found: dict[str, dict[str, str]] = {path: {} for path in files}
    for name in ADDRESSES:
        # Some of them not every container has.
        for line in user.inside(CLUSTER, name, ["sh", "-c", f"sha256sum {' '.join(files)} || :"]).decode().splitlines():
            digest, path = line.split()
            found[path][name] = digest
    for path, digests in found.items():
        assert len(set(digests.values())) == len(digests), f"{path}: {digests}"
    assert [path for path in everywhere if found[path].keys() != ADDRESSES.keys()] == []


def test_between_blocks_packets_are_in_tunnels_and_keep_their_source(user: LabUser) -> None:
    own, far = ADDRESSES[CONTROLLER], ADDRESSES[SOURCES[1]]
    with Tap(user.namespace("router"), "control") as near_wire, Tap(user.namespace("router"), "computes") as far_wire:
        ping(user, CONTROLLER, far)
        asked = [frame for frame in near_wire.drain() if inner(frame) == (own, far)]
        answered = [frame for frame in far_wire.drain() if inner(frame) == (far, own)]
    assert [outer(frame) for frame in asked] == [(CONTROL, COMPUTES_2)] * 2
    assert [outer(frame) for frame in answered] == [(COMPUTES_2, CONTROL)] * 2, "whom the container saw, it answered"


def test_the_mtu_is_what_the_tunnel_leaves(user: LabUser) -> None:
    ways = ((CONTROLLER, "10.100.1.2"), (SOURCES[0], "10.100.2.3"), (SOURCES[1], "10.0.3.2"))
    for source, target in ways:
        ping(user, source, target, "-M", "do", "-s", str(MTU - 28))
    with ThreadPoolExecutor() as pool:  # each waits for an answer that does not come
        for tried in [pool.submit(ping, user, *way, "-M", "do", "-s", str(MTU - 27), ok=False) for way in ways]:
            tried.result()


@pytest.mark.parametrize(("host", "address"), [("rally", RALLY), ("control", CONTROL)])
def test_the_ends_of_tunnel_to_reach_containers_and_are_reached(user: LabUser, host: str, address: str) -> None:
    with Tap(user.namespace(host), "eth0") as wire:
        ping(user, SOURCES[0], address)
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{user.namespace(host)}", "ping", "-n", "-c", "2", "-i", "0.2", "10.100.2.3"],
            capture_output=True,
            text=True,
            check=False,
        )
        seen = wire.drain()
    assert done.returncode == 0, done.stdout
    assert {outer(frame) for frame in seen if inner(frame) == ("10.100.1.2", address)} == {(COMPUTES_1, address)}
    assert {outer(frame) for frame in seen if inner(frame) == ("10.100.2.3", address)} == {(COMPUTES_2, address)}


def test_verify_finds_every_pair(user: LabUser) -> None:
    document = user.document("verify", CLUSTER, "--json")
    assert document["ok"]
    pairs = {(pair["from"], pair["to"]) for pair in document["pairs"]}
    assert {(one, other) for one in ADDRESSES for other in ADDRESSES if one != other} <= pairs


def test_more_clones_touch_nothing_of_what_runs(user: LabUser, tmp_path: Path) -> None:
    more = tmp_path / "picture.json"
    more.write_text((ROOT / FILE).read_text().replace('"nodes_per_server": 2', '"nodes_per_server": 3'))
    before = {entry["name"]: entry["pid"] for entry in user.document("status", CLUSTER, "--json")["containers"]}
    plan = user.document("plan", str(more), *WORDS, "--json")
    assert [(one["verb"], one["name"]) for one in plan["hosts"]["computes-1"]["actions"] if one["kind"] == "container"][
        -2:
    ] == [
        ("create", f"{CLUSTER}.devstack-compute-10-100-1-0-002"),
        ("start", f"{CLUSTER}.devstack-compute-10-100-1-0-002"),
    ]
    user.caas("up", str(more), *WORDS)
    after = {entry["name"]: entry["pid"] for entry in user.document("status", CLUSTER, "--json")["containers"]}
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    services = user.openstack(CLUSTER, "compute", "service", "list", "--service", "nova-compute")
    assert len([entry for entry in services if entry["State"] == "up"]) == 6


def test_down_leaves_the_hosts_as_they_were(user: LabUser) -> None:
    user.caas("down", CLUSTER)
    for host in ("rally", "control", "computes-1", "computes-2"):
        enter = ["nsenter", f"--net=/run/netns/{user.namespace(host)}"]
        links = json.loads(subprocess.run([*enter, "ip", "-json", "link"], capture_output=True, check=True).stdout)
        assert {link["ifname"] for link in links} == {"lo", "eth0"}, host
        rules = subprocess.run([*enter, "nft", "list", "ruleset"], capture_output=True, check=True).stdout
        assert rules == b"", host
        rules = subprocess.run([*enter, "ip", "rule"], capture_output=True, check=True).stdout
        assert len(rules.splitlines()) == 3, host
