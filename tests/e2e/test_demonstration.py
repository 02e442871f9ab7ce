"""`make demo` from end to end, judged from outside: the stock client, raw sockets, `ip`, systemd, /proc.

The tests of this file stand in the order in which a newcomer would do things.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit import collect, shared
from tests.support.demonstration import ROOT, Demonstration
from tests.support.netns import poll_until
from tests.support.wire import Frame, Tap

DEMO, TWO = "examples/demo.yaml", "examples/demo-two-computes.yaml"
OUTSIDE, NATBOX = "203.0.113.254", "203.0.113.1"
UBUNTU011, UBUNTU012 = "192.168.10.50", "192.168.10.51"
#: A cluster beside `demo`, in another VLAN, with the same subnet and the same address, on the other host.
BLUE = (
    (ROOT / DEMO)
    .read_text()
    .replace("name: demo", "name: blue")
    .replace("vlan: 100", "vlan: 200")
    .replace("host: host1", "host: host2")
)


def ipv4(frame: Frame) -> tuple[str, str] | None:
    """Source and destination of an IPv4 packet."""
    if frame.ethertype != 0x0800:
        return None
    source, destination = frame.payload[12:16], frame.payload[16:20]
    return ".".join(map(str, source)), ".".join(map(str, destination))


def ping(demonstration: Demonstration, cluster: str, container: str, address: str, *, count: int = 3) -> None:
    demonstration.inside(cluster, container, ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "2", address])


def started(demonstration: Demonstration, cluster: str, container: str) -> dict[str, str]:
    """When each service of a container was started last, and its main process."""
    units = "mariadb rabbitmq-server keystone-api glance-api placement-api neutron-api nova-api nova-conductor "
    units += "nova-scheduler nova-compute keystone"
    text = demonstration.inside(
        cluster,
        container,
        ["systemctl", "show", *units.split(), "-p", "Id,MainPID,ActiveEnterTimestampMonotonic,ActiveState"],
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.decode().strip().split("\n\n")]
    return {
        block["Id"]: f"{block['MainPID']} {block['ActiveEnterTimestampMonotonic']}"
        for block in blocks
        if block["ActiveState"] == "active"
    }


def test_the_demonstration_says_what_it_did_and_saw(demonstration: Demonstration) -> None:
    output = demonstration.output
    assert output.count("tag 100  192.168.10.51 -> 203.0.113.254") == 3
    assert output.count("no tag   203.0.113.1 -> 203.0.113.254") == 3
    for phrase in ("1 compute up", "2 computes up", "== What it took", "caas status demo"):
        assert phrase in output, phrase


def test_nova_lists_both_computes_and_booted_a_server_on_each(demonstration: Demonstration) -> None:
    services = demonstration.openstack("demo", "compute", "service", "list", "--service", "nova-compute")
    assert {(entry["Host"], entry["State"]) for entry in services} == {("ubuntu011", "up"), ("ubuntu012", "up")}
    assert len(demonstration.openstack("demo", "hypervisor", "list")) == 2
    assert demonstration.openstack("demo", "server", "list", "--all-projects") == []
    deleted = demonstration.openstack("demo", "server", "list", "--all-projects", "--deleted", "--long")
    assert {entry["Host"] for entry in deleted} == {"ubuntu011", "ubuntu012"}


def test_a_server_boots_by_hand_with_the_stock_client(demonstration: Demonstration) -> None:
    made = demonstration.openstack(
        "demo",
        *["server", "create", "--image", "caas-test", "--flavor", "caas-test", "--network", "none"],
        *["--availability-zone", "nova:ubuntu012", "mine"],
    )

    def shown() -> dict[str, Any]:
        """The server, {} while nova works on it; `--wait` would ask every five seconds."""
        found: dict[str, Any] = demonstration.openstack("demo", "server", "show", made["id"])
        return found if found["status"] != "BUILD" else {}

    done = poll_until(shown, deadline=60)
    assert (done["status"], done["OS-EXT-SRV-ATTR:host"]) == ("ACTIVE", "ubuntu012")
    demonstration.caas("openstack", "demo", "--", "server", "delete", "mine")
    poll_until(lambda: demonstration.openstack("demo", "server", "list", "--all-projects") == [], deadline=60)


def test_the_stock_clients_status_is_passed_on(demonstration: Demonstration) -> None:
    demonstration.caas("openstack", "demo", "--", "server", "show", "ghost", status=1)
    demonstration.caas("exec", "demo", "ubuntu011", "--", "sh", "-c", "exit 7", status=7)
    demonstration.caas("exec", "demo", "ghost", "--", "true", status=125)


def test_credentials_work_where_they_say(demonstration: Demonstration) -> None:
    openrc = demonstration.caas("openrc", "demo")
    assert b"192.168.10.0/24 (VLAN 100)" in openrc.stderr
    listed = demonstration.inside(
        "demo", "ubuntu011", ["sh", "-c", ". /dev/stdin && openstack token issue -f json"], openrc.stdout
    )
    assert json.loads(listed)["id"]


def test_an_unchanged_file_performs_no_write(demonstration: Demonstration) -> None:
    with watched(demonstration, "host1", "host2", "natbox") as said:
        before = started(demonstration, "demo", "ubuntu011"), files_changed(demonstration)
        began = time.monotonic()
        done = demonstration.caas("up", TWO)
        print(f"caas up of an unchanged file: {time.monotonic() - began:.2f} s")
        assert b"nothing to do, 2 computes up" in done.stdout
        assert demonstration.document("plan", TWO, "--json") == {"hosts": {}, "natbox": [], "steps": []}
        assert (started(demonstration, "demo", "ubuntu011"), files_changed(demonstration)) == before
    assert said() == "", "the kernel told of changes"


class watched:  # noqa: N801  reads as a word in `with watched(…)`
    """What the kernel tells of changed links, addresses, routes, rules and filters in some machines meanwhile."""

    def __init__(self, demonstration: Demonstration, *machines: str) -> None:
        self._namespaces = [demonstration.namespace(machine) for machine in machines]
        self._processes: list[subprocess.Popen[str]] = []
        self._heard = ""

    def __enter__(self) -> Any:
        for namespace in self._namespaces:
            argv = ["nsenter", f"--net=/run/netns/{namespace}"]
            for command in (
                ["ip", "-o", "monitor", "link", "address", "route", "rule"],
                ["nft", "monitor"],
                ["tc", "monitor"],
            ):
                self._processes.append(
                    subprocess.Popen([*argv, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                )
        time.sleep(0.5)  # the monitors say nothing when they have begun to listen
        return lambda: self._heard

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.terminate()
            self._heard += process.communicate()[0]


def test_the_watch_above_hears_a_change(demonstration: Demonstration) -> None:
    with watched(demonstration, "host1") as said:
        for mtu in ("1499", "1500"):
            argv = ["nsenter", f"--net=/run/netns/{demonstration.namespace('host1')}", "ip", "link", "set", "lxcbr100"]
            subprocess.run([*argv, "mtu", mtu], check=True)
    assert "lxcbr100" in said()


def files_changed(demonstration: Demonstration) -> dict[str, float]:
    """The agents' and NATBox's files with the time of their last change; what containers write is not ours."""
    root = Path("/var/lib/caas/labs") / demonstration.lab
    return {
        str(path): path.stat().st_mtime
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix != ".log"
        and not {"delta", "log", "coordinator"} & set(path.relative_to(root).parts)
    }


def test_a_compute_more_touches_nothing_of_what_runs(demonstration: Demonstration, tmp_path: Path) -> None:
    more = tmp_path / "three.yaml"
    text = (ROOT / TWO).read_text()
    more.write_text(
        text.replace(
            "nova:", "  ubuntu013: {host: host2, network: cluster, address: 192.168.10.52, roles: [compute]}\nnova:"
        )
    )
    before = started(demonstration, "demo", "ubuntu011"), started(demonstration, "demo", "ubuntu012")
    plan = demonstration.document("plan", str(more), "--json")
    assert [(entry["verb"], entry["name"]) for entry in plan["hosts"]["host2"]["actions"]] == [
        ("create", "demo.ubuntu013"),
        ("start", "demo.ubuntu013"),
    ]
    assert set(plan["hosts"]) == {"host2"}
    assert all(step["id"].endswith(":ubuntu013") for step in plan["steps"])
    began = time.monotonic()
    demonstration.caas("up", str(more))
    print(f"a compute more: {time.monotonic() - began:.1f} s")
    assert (started(demonstration, "demo", "ubuntu011"), started(demonstration, "demo", "ubuntu012")) == before
    assert demonstration.document("status", "demo", "--json")["nova"]["computes_up"] == 3


def test_removing_it_is_refused_and_done_when_allowed(demonstration: Demonstration) -> None:
    refused = demonstration.caas("up", TWO, status=2)
    assert b"host2: delete container demo.ubuntu013" in refused.stderr
    assert b"--remove" in refused.stderr
    assert demonstration.document("status", "demo", "--json")["nova"]["computes_up"] == 3
    demonstration.caas("up", TWO, "--remove")
    status = demonstration.document("status", "demo", "--json")
    assert [entry["name"] for entry in status["containers"]] == ["ubuntu011", "ubuntu012"]
    assert {entry["host"] for entry in status["nova"]["services"] if entry["binary"] == "nova-compute"} == {
        "ubuntu011",
        "ubuntu012",
    }
    assert status["state"] == "up"


def test_frames_are_untagged_inside_tagged_100_on_the_trunk_and_translated_on_the_uplink(
    demonstration: Demonstration,
) -> None:
    port = "demo.ubuntu012"
    with (
        Tap(demonstration.namespace("host2"), port) as inside,
        Tap(demonstration.namespace("trunk"), "host2.eth1") as trunk,
        Tap(demonstration.namespace("outside"), "eth0") as uplink,
    ):
        ping(demonstration, "demo", "ubuntu012", OUTSIDE)
        seen_inside, seen_trunk, seen_uplink = inside.drain(), trunk.drain(), uplink.drain()
    pings = [frame for frame in seen_inside if ipv4(frame) == (UBUNTU012, OUTSIDE)]
    assert len(pings) == 3
    assert all(frame.tags == () for frame in seen_inside), "a container's frames are untagged"
    assert len([frame for frame in seen_trunk if ipv4(frame) == (UBUNTU012, OUTSIDE)]) == 3
    assert {frame.tags for frame in seen_trunk} == {((0x8100, 100),)}, "tag 100 and only 100 on the trunk"
    assert len([frame for frame in seen_uplink if ipv4(frame) == (NATBOX, OUTSIDE)]) == 3
    assert all(frame.tags == () for frame in seen_uplink), "nothing tagged leaves the uplink"
    assert not [frame for frame in seen_uplink if (ipv4(frame) or ("",))[0].startswith("192.168.")]


@pytest.fixture(scope="module")
def blue(demonstration: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Cluster `blue` beside `demo`: the same image, subnet and address. Its API is published, `demo`'s is not."""
    file = tmp_path_factory.mktemp("blue") / "blue.yaml"
    file.write_text(BLUE + "publish: api\n")
    demonstration.caas("up", str(file))
    yield "blue"
    demonstration.caas("down", "blue")


def test_what_comes_back_reaches_only_its_owner(demonstration: Demonstration, blue: str) -> None:
    with (
        Tap(demonstration.namespace("host1"), "demo.ubuntu011") as owner,
        Tap(demonstration.namespace("host2"), "blue.ubuntu011") as other,
        Tap(demonstration.namespace("trunk"), "natbox.eth1") as trunk,
    ):
        ping(demonstration, "demo", "ubuntu011", OUTSIDE)
        replies = [frame for frame in other.drain() if ipv4(frame) and OUTSIDE in (ipv4(frame) or ())]
        assert replies == [], "the other cluster's container of the same address saw them"
        ping(demonstration, blue, "ubuntu011", OUTSIDE)
        tags = {frame.tags for frame in trunk.drain() if UBUNTU011 in (ipv4(frame) or ())}
        sent = [frame for frame in owner.drain() if ipv4(frame) == (UBUNTU011, OUTSIDE)]
    assert len(sent) == 3
    assert tags == {((0x8100, 100),), ((0x8100, 200),)}


def from_outside(demonstration: Demonstration, cluster: str, *words: str) -> Any:
    """What the stock client prints as JSON, with the public credentials, in the network of the world outside.

    It is the client of the cluster's own container: its files and processes, with another network namespace.
    """
    openrc = demonstration.caas("openrc", cluster, "--public").stdout
    containers = demonstration.document("status", cluster, "--json")["containers"]
    (pid,) = (one["pid"] for one in containers if one["name"] == "ubuntu011")
    network = f"--net=/run/netns/{demonstration.namespace('outside')}"
    inside = [f"--{kind}=/proc/{pid}/ns/{name}" for kind, name in (("mount", "mnt"), ("pid", "pid"))]
    script = 'eval "$(cat)" && exec openstack "$@" -f json'
    done = subprocess.run(
        ["nsenter", *inside, network, "sh", "-c", script, "openstack", *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        input=openrc,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


#: The status of a GET / at each port of HOST, as JSON.
ASK = """
import http.client, json, sys
def ask(port):
    connection = http.client.HTTPConnection(sys.argv[1], int(port), timeout=10)
    connection.request("GET", "/")
    return connection.getresponse().status
print(json.dumps({port: ask(port) for port in sys.argv[2:]}))
"""


def asked_from_outside(demonstration: Demonstration, *ports: int) -> dict[str, int]:
    """What NATBox's address answers at *ports*."""
    network = f"--net=/run/netns/{demonstration.namespace('outside')}"
    argv = ["nsenter", network, sys.executable, "-c", ASK, NATBOX, *map(str, ports)]
    found: dict[str, int] = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)
    return found


def test_the_stock_client_works_from_outside_where_the_api_is_published(
    demonstration: Demonstration, blue: str
) -> None:
    with Tap(demonstration.namespace("outside"), "eth0") as uplink:
        services = from_outside(demonstration, blue, "compute", "service", "list")
        seen = {ipv4(frame) for frame in uplink.drain()}
    assert {entry["State"] for entry in services} == {"up"}
    assert "nova-compute" in {entry["Binary"] for entry in services}
    assert {pair for pair in seen if pair} == {(NATBOX, OUTSIDE)}, "what comes out has NATBox's address"
    assert set(asked_from_outside(demonstration, 5000, 9292, 8778, 8774, 9696).values()) <= {200, 300}
    demonstration.caas("openrc", "demo", "--public", status=2)
    packet = ["uplink", OUTSIDE, "to", f"{NATBOX}:8774"]
    explained = demonstration.document("natbox", "explain", "--json", *packet)
    assert (explained["verdict"], explained["cluster"]) == ("passes", "blue")
    explained = demonstration.document("natbox", "explain", "--json", "uplink", OUTSIDE, "to", f"{NATBOX}:3306")
    assert (explained["verdict"], explained["reason"]) == ("dropped", "nobody asked for it")
    (natbox,) = demonstration.document("natbox", "status", "--json")["natboxes"]
    by_cluster = {one["cluster"]: one for one in natbox["networks"]}
    assert len(by_cluster["blue"]["publications"]) == 5
    assert by_cluster["blue"]["in_packets"] > 0
    assert "publications" not in by_cluster["demo"]


def test_publishing_an_api_that_runs_restarts_nothing_and_takes_no_port_of_another(
    demonstration: Demonstration, blue: str, tmp_path: Path
) -> None:
    file = tmp_path / "published.yaml"
    text = (ROOT / TWO).read_text()
    file.write_text(text + "publish: api\n")
    refused = demonstration.caas("check", str(file), status=2)
    line = len(text.splitlines()) + 1
    assert f"{file}:{line}: publish: cluster blue publishes tcp port 5000".encode() in refused.stderr
    file.write_text(text + "publish: {api: 18000}\n")
    before = started(demonstration, "demo", "ubuntu011"), started(demonstration, "demo", "ubuntu012")
    demonstration.caas("up", str(file))
    try:
        hypervisors = from_outside(demonstration, "demo", "hypervisor", "list")
        assert {one["Hypervisor Hostname"] for one in hypervisors} == {"ubuntu011", "ubuntu012"}, "blue has but one"
    finally:
        demonstration.caas("up", TWO)
    assert (started(demonstration, "demo", "ubuntu011"), started(demonstration, "demo", "ubuntu012")) == before
    demonstration.caas("openrc", "demo", "--public", status=2)


def test_two_clusters_of_one_image_share_no_secret(demonstration: Demonstration, blue: str) -> None:
    def values(cluster: str, *containers: str) -> dict[str, frozenset[str]]:
        return collect(lambda container, argv, stdin: demonstration.inside(cluster, container, argv, stdin), containers)

    demo, other = values("demo", "ubuntu011", "ubuntu012"), values(blue, "ubuntu011")
    assert shared(demo, demo), "the comparison finds nothing even where all is the same"
    assert shared(demo, other) == {}


def test_no_secret_is_on_a_command_line_or_in_a_readable_file(demonstration: Demonstration) -> None:
    password = next(
        line.split("'")[1]
        for line in demonstration.caas("openrc", "demo").stdout.decode().splitlines()
        if "OS_PASSWORD" in line
    )
    lines = demonstration.inside("demo", "ubuntu011", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).decode()
    assert "nova-api" in lines
    assert password not in lines
    grep = ["sh", "-c", 'read p; find / -xdev -type f -perm -o+r -exec grep -l -F -e "$p" {} + || true']
    assert demonstration.inside("demo", "ubuntu011", grep, password.encode() + b"\n") == b""


def test_verify_and_test_find_all_well(demonstration: Demonstration) -> None:
    verified = demonstration.document("verify", "demo", "--json")
    assert verified["ok"]
    well = {(pair["from"], pair["to"]) for pair in verified["pairs"] if pair["ok"] and pair["mtu"]}
    both = {"ubuntu011", "ubuntu012"}
    assert well == {(one, other) for one in both for other in (both | {"gateway"}) - {one}}
    demonstration.caas("test", "demo")


def test_logs_say_what_a_service_that_does_not_start_says(demonstration: Demonstration) -> None:
    unit = "/etc/systemd/system/nova-compute.service.d/broken.conf"
    words = "[Service]\nRestart=no\nExecStart=\nExecStart=/bin/sh -c 'echo the driver is missing; exit 3'\n"
    spoil = "mkdir -p ${0%/*} && cat > $0 && systemctl daemon-reload && systemctl stop nova-compute"
    demonstration.inside("demo", "ubuntu012", ["sh", "-c", spoil, unit], words.encode())
    try:
        failed = demonstration.caas("up", TWO, status=1).stderr.decode()
        said = demonstration.caas("logs", "demo").stdout.decode()
    finally:
        demonstration.inside("demo", "ubuntu012", ["sh", "-c", "rm $0 && systemctl daemon-reload", unit])
    assert "hint: `caas logs demo`" in failed
    step, _, tail = said.partition("\nfailed: compute/server:ubuntu012: ")[2].partition("\nubuntu012, its last lines\n")
    assert "\n  error: compute/server:ubuntu012: " in step
    lines, _, agent = tail.partition("\nthe agent of ")
    assert "the driver is missing" in lines.partition("-- nova-compute.service does not run; its last lines:")[2]
    assert agent.splitlines()[0].endswith(", its last lines")
    demonstration.caas("up", TWO)
    assert "\nfailed: " not in demonstration.caas("logs", "demo").stdout.decode()


def test_a_device_of_our_name_that_is_not_ours_is_an_error_and_stays(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    enter = ["nsenter", f"--net=/run/netns/{demonstration.namespace('host1')}"]
    subprocess.run([*enter, "ip", "link", "add", "lxcbr300", "type", "bridge"], check=True)
    file = tmp_path / "red.yaml"
    file.write_text(BLUE.replace("blue", "red").replace("200", "300").replace("host: host2", "host: host1"))
    try:
        done = demonstration.caas("up", str(file), status=1)
        assert b"lxcbr300 exists and is not ours" in done.stderr
        assert b"ip link del lxcbr300" in done.stderr
        links = json.loads(subprocess.run([*enter, "ip", "-json", "link"], capture_output=True, check=True).stdout)
        assert not {"eth1.300", "red.ubuntu011"} & {link["ifname"] for link in links}
        assert demonstration.document("status", "red", "--json")["state"] == "absent"
    finally:
        subprocess.run([*enter, "ip", "link", "del", "lxcbr300"], check=True)


def test_an_unreachable_host_is_named_and_nothing_is_changed(demonstration: Demonstration, tmp_path: Path) -> None:
    file = tmp_path / "away.yaml"
    file.write_text(BLUE.replace("blue", "red").replace("200", "300").replace("192.168.2.26", "192.168.2.77"))
    done = demonstration.caas("up", str(file), status=1)
    assert b"host2" in done.stderr
    assert demonstration.document("status", "red", "--json")["state"] == "absent"


def test_a_vid_of_another_cluster_is_refused_before_anything(demonstration: Demonstration, tmp_path: Path) -> None:
    file = tmp_path / "thief.yaml"
    file.write_text(BLUE.replace("blue", "red").replace("200", "100"))
    done = demonstration.caas("up", str(file), status=1)
    assert b"100" in done.stderr
    assert demonstration.document("status", "red", "--json")["state"] == "absent"
