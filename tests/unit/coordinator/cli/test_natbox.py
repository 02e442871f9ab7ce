"""`caas natbox`: what is asked, what is shown, and how it ends."""

from __future__ import annotations

import json
from typing import Any

NETWORK: dict[str, Any] = {
    "cluster": "demo",
    "network": "cluster",
    "vid": 100,
    "subnet": "192.168.10.0/24",
    "gateway": "192.168.10.1",
    "external": "203.0.113.7",
    "publications": [{"protocol": "tcp", "port": 80, "to": "192.168.10.50:8080"}],
    "out_packets": 12,
    "out_bytes": 1900,
    "in_packets": 9,
    "in_bytes": 812,
    "connections": 3,
    "connections_max": 4096,
    "drops": {"spoofed source": 2, "second tag": 1},
}
FOUND: dict[str, Any] = {
    "address": "192.168.2.24",
    "state": "up",
    "trunk": "eth1",
    "uplink": "eth2",
    "uplink_addresses": ["203.0.113.1/24"],
    "lacks": [],
    "connections": 3,
    "connections_max": 262144,
    "alarms": [],
    "trunk_drops": {"untagged": 7},
    "networks": [NETWORK],
}
EXPLAINED: dict[str, Any] = {
    "natbox": "192.168.2.24",
    "packet": "vid 100 …",
    "verdict": "dropped",
    "reason": "spoofed source",
    "cluster": "demo",
    "network": "cluster",
    "steps": ["VID 100 is demo/cluster's", "192.168.10.77 is no container of it"],
}
WORDS = ("vid", "100", "192.168.10.77", "to", "203.0.113.254", "tcp", "80")


def test_status_for_people(caas: Any) -> None:
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": [FOUND]}
    result = caas.run("natbox", "status")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "NATBox at 192.168.2.24: trunk eth1, uplink eth2 203.0.113.1/24\n"
        "connections 3 of 262144\n"
        "\n"
        "CLUSTER  NETWORK  VID  SUBNET           EXTERNAL     OUT  BYTES    IN  BYTES  CONNECTIONS  DROPPED\n"
        "demo     cluster  100  192.168.10.0/24  203.0.113.7  12   1.9 KiB  9   812 B  3 of 4096    3\n"
        "\n"
        "demo/cluster: external 203.0.113.7\n"
        "demo/cluster: publish 203.0.113.7:80/tcp to 192.168.10.50:8080\n"
        "\n"
        "dropped, of demo/cluster:\n"
        "  2  spoofed source\n"
        "  1  second tag\n"
        "\n"
        "dropped, of no network:\n"
        "  7  untagged\n"
    )


def test_alarms_are_red_on_a_terminal_alone(caas: Any) -> None:
    alarm = "demo/cluster has 4000 of its 4096 connections"
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": [{**FOUND, "alarms": [alarm]}]}
    assert f"\n{alarm}\n" in caas.run("natbox", "status").stdout
    assert f"\x1b[31m{alarm}\x1b[0m\n" in caas.run("natbox", "status", color=True).stdout


def test_one_that_does_not_answer_is_told_beside_the_others(caas: Any) -> None:
    away = {"address": "192.168.2.23", "state": "unreachable", "message": "natbox: no route"}
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": [away, FOUND]}
    result = caas.run("natbox", "status", "--natbox", "192.168.2.23")
    assert result.exit_code == 1
    assert result.stdout.startswith("NATBox at 192.168.2.23: unreachable: natbox: no route\n\nNATBox at 192.168.2.24: ")
    assert [request.natbox for _, request in caas.coordinator.calls] == ["192.168.2.23"]


def test_status_as_a_document_and_of_nothing(caas: Any) -> None:
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": [FOUND]}
    assert json.loads(caas.run("natbox", "status", "--json").stdout) == {"natboxes": [FOUND]}
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": []}
    assert caas.run("natbox", "status").stdout == "no cluster has a NATBox\n"


def test_the_verdict_comes_first_then_the_steps(caas: Any) -> None:
    caas.coordinator.documents["Explain"] = EXPLAINED
    result = caas.run("natbox", "explain", *WORDS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "dropped: spoofed source, of demo/cluster\n"
        "  1. VID 100 is demo/cluster's\n"
        "  2. 192.168.10.77 is no container of it\n"
    )
    assert json.loads(caas.run("natbox", "explain", "--json", " ".join(WORDS)).stdout) == EXPLAINED
    (_, first), (_, second) = caas.coordinator.calls
    assert first == second
    assert (first.packet.vid, first.packet.destination_port, first.natbox) == (100, 80, "")
    caas.coordinator.documents["Explain"] = {**EXPLAINED, "verdict": "passes", "reason": "", "cluster": "", "steps": []}
    assert caas.run("natbox", "explain", *WORDS, "--natbox", "192.168.2.24").stdout == "passes\n"


def test_what_is_no_packet_needs_no_coordinator(caas: Any) -> None:
    result = caas.run("natbox", "explain", "vid", "5000", env={"CAAS_COORDINATOR": "/nowhere/s"})
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: packet: VID '5000'")
