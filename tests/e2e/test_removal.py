"""After everything else of this tier: `make demo-down` leaves the machine as it was."""

from __future__ import annotations

import json
import subprocess

from tests.support.demonstration import Demonstration
from tests.support.fingerprint import difference, of_others, take
from tests.support.netns import poll_until


def left_behind(demonstration: Demonstration) -> str:
    """What is new or changed since before the demonstration. What others ended meanwhile is their affair."""
    before = demonstration.before
    lines = difference(before, take(), ignore=of_others(before)).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("processes: - ", "cgroups: - ", "bpf: - ")))


def test_a_clusters_down_leaves_the_hosts_as_they_were(demonstration: Demonstration) -> None:
    demonstration.caas("down", "demo")
    assert demonstration.document("status", "--json") == {"clusters": []}
    assert demonstration.document("status", "demo", "--json")["state"] == "absent"
    for host in ("host1", "host2"):
        enter = ["nsenter", f"--net=/run/netns/{demonstration.namespace(host)}"]
        links = json.loads(subprocess.run([*enter, "ip", "-json", "link"], capture_output=True, check=True).stdout)
        assert {link["ifname"] for link in links} == {"lo", "eth0", "eth1"}
        filters = subprocess.run(
            [*enter, "tc", "filter", "show", "dev", "eth1", "ingress"], capture_output=True, check=True
        )
        assert filters.stdout == b""
    demonstration.caas("down", "demo")


def test_after_demo_down_the_machine_is_as_it_was(demonstration: Demonstration) -> None:
    assert f"{demonstration.lab}-host1" in left_behind(demonstration), "the comparison sees nothing"
    demonstration.down()
    poll_until(lambda: not left_behind(demonstration), deadline=30, describe=lambda: left_behind(demonstration))
    demonstration.down()
