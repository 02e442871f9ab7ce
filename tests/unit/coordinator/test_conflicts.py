"""What two clusters claim at one NATBox: told with the line, and whose it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from coordinator.compiling import compile_cluster
from coordinator.config import ClusterFile, ConfigError, Settings, load_bytes
from coordinator.conflicts import check_conflicts
from coordinator.journal import Journal, Record
from coordinator.known import holders_of
from coordinator.rpc.service import CoordinatorService
from proto import coordinator_pb2 as pb
from proto.errors import Code
from proto.wire import gateway_table_to_wire
from tests.support.fleet import FakeFleet

HEAD = """\
name: demo
hosts:
  host1: {address: 192.168.2.25, trunk: eth1}
natbox: {address: 192.168.2.24, trunk: eth1, uplink: eth2}
networks:
  cluster: {vlan: 100, subnet: 192.168.10.0/24, gateway: 192.168.10.1}
containers:
  control: {host: host1, network: cluster, roles: [controller, compute]}
"""
EXTERNAL = HEAD.replace("10.1}", "10.1, external: 203.0.113.7}")
OWN = HEAD.replace("compute]}", "compute], external: 203.0.113.7}")


def _read(text: str, name: str = "demo") -> ClusterFile:
    return load_bytes(text.replace("name: demo", f"name: {name}").encode(), file=f"{name}.yaml")


def _remember(journal: Journal, file: ClusterFile) -> None:
    """As a bring-up does before it changes anything."""
    table = compile_cluster(file).natbox
    natbox: Any = json_format.MessageToDict(gateway_table_to_wire(table)) if table else None
    journal.hold(file.name, holders_of(file))
    remembered = json.dumps({"hosts": {}, "natbox": natbox})
    journal.save(
        Record(
            name=file.name,
            state="deploying",
            generation=1,
            file_name="",
            file=b"",
            remembered=remembered,
            secrets="",
        )
    )


def _check(journal: Journal, file: ClusterFile, *pair: str) -> None:
    fleet = FakeFleet(Path())
    fleet.pair = pair
    check_conflicts(fleet, journal, file)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


API, SSH, UDP = (
    "publish: api\n",
    "publish: [{port: 22, to: control:22}]\n",
    "publish: {port: 22, to: control:9, protocol: udp}\n",
)

CONFLICTS = {
    "the API of both": (HEAD + API, HEAD + API, 9, "publish", "tcp port 5000 of NATBox's own address"),
    "a port": (HEAD + SSH, HEAD + SSH, 9, "publish[0].port", "tcp port 22 of NATBox's own address"),
    "a port of the API": (
        HEAD + API,
        HEAD + "publish: [{port: 8774, to: control:22}]\n",
        9,
        "publish[0].port",
        "tcp port 8774 of NATBox's own address",
    ),
    "an address of two networks": (
        EXTERNAL + SSH,
        EXTERNAL + UDP,
        6,
        "networks.cluster.external",
        "203.0.113.7",
    ),
    "an address of its own": (OWN, OWN, 8, "containers.control.external", "203.0.113.7"),
    "an address of a container": (OWN, EXTERNAL, 6, "networks.cluster.external", "203.0.113.7"),
    "an address of a network": (EXTERNAL, OWN, 8, "containers.control.external", "203.0.113.7"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_a_conflict_names_the_other_cluster_and_the_line(name: str, journal: Journal) -> None:
    theirs, ours, line, path, what = CONFLICTS[name]
    _remember(journal, _read(theirs, "blue"))
    with pytest.raises(ConfigError) as caught:
        _check(journal, _read(ours))
    assert caught.value.code is Code.INVALID
    (first,) = caught.value.problems
    assert (first.file, first.line, first.path) == ("demo.yaml", line, path)
    assert "cluster blue" in first.message
    assert what in first.message
    assert "caas down blue" in first.hint


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (HEAD, HEAD),
        (HEAD + API, HEAD + "publish: {api: 18000}\n"),
        (HEAD + SSH, HEAD + UDP),
        (HEAD + SSH, EXTERNAL + SSH),
        (OWN, OWN.replace("113.7", "113.8")),
        (HEAD + API, HEAD.replace("192.168.2.24", "192.168.2.23") + API),
    ],
    ids=["nothing", "other ports", "udp", "other address", "two addresses", "another NATBox"],
)
def test_what_both_can_have_is_no_conflict(theirs: str, ours: str, journal: Journal) -> None:
    _remember(journal, _read(theirs, "blue"))
    _check(journal, _read(ours))


def test_every_line_is_told_and_a_cluster_does_not_exclude_itself(journal: Journal) -> None:
    both = EXTERNAL.replace("compute]}", "compute], external: 203.0.113.8}") + SSH
    _remember(journal, _read(both, "blue"))
    _remember(journal, _read(HEAD + API, "green"))
    with pytest.raises(ConfigError) as caught:
        _check(journal, _read(both))
    assert [problem.line for problem in caught.value.problems] == [6, 8]
    _check(journal, _read(both, "blue"))
    journal.forget("blue")
    _check(journal, _read(both))


def test_two_natboxes_of_which_one_works_are_one(journal: Journal) -> None:
    _remember(journal, _read(HEAD + API, "blue"))
    other = _read(HEAD.replace("192.168.2.24", "192.168.2.23") + API)
    _check(journal, other)
    with pytest.raises(ConfigError, match="cluster blue publishes tcp port 5000"):
        _check(journal, other, "192.168.2.24", "192.168.2.23")


async def test_check_asks_the_journal(journal: Journal) -> None:
    service = CoordinatorService(journal, FakeFleet(Path()), Settings())  # type: ignore[arg-type]
    request = pb.FileRequest(content=(HEAD + API).encode(), file_name="demo.yaml")
    assert json.loads((await service.Check(request, None)).json) == {"cluster": "demo"}
    _remember(journal, _read(HEAD + API, "blue"))
    with pytest.raises(ConfigError, match=r"demo\.yaml:9: publish: cluster blue publishes tcp port 5000"):
        await service.Check(request, None)
