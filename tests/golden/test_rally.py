"""Rally's deployment files: each folder of rally/ is one test, or several where it is known what Rally did with it.

    CASE/deployment.json    the file; messages call it CASE.json
    CASE/surroundings.json  (may be there) {"distributions", "localhost": [NAME, ADDRESS], "addresses", "agents"};
                            else ubuntu is debian:bookworm, and nothing else is known
    CASE/compile.json       what `caas compile --json` prints, or
    CASE/error.txt          what it says instead
    CASE/original.json      (may be there) facts of what Rally did: containers in the order of their making, clones,
                            bridges, tunnels, rules, exemptions from translation, routes of the far ends, local.conf

After a wanted change: CAAS_GOLDEN_WRITE=1 python -m pytest tests/golden, then read the difference before committing it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from coordinator.compiling import compile_cluster, to_document
from coordinator.config import ClusterFile, Host, Surroundings, load_bytes
from coordinator.config.cluster import CONTROLLER_TOKEN
from proto.errors import CaasError

HERE = Path(__file__).parent / "rally"
CASES = sorted(path.parent.name for path in HERE.glob("*/deployment.json"))
ORIGINALS = [name for name in CASES if (HERE / name / "original.json").exists()]
WORKED = [name for name in ORIGINALS if json.loads((HERE / name / "original.json").read_text())["outcome"] == "ok"]
#: What containers get where the file names no network, and what Rally's stub of LXC said of it.
DEFAULT_CONTROLLER = IPv4Address("10.0.3.2")


def _surroundings(case: Path) -> Surroundings:
    path = case / "surroundings.json"
    if not path.exists():
        return Surroundings(distributions={"ubuntu": "debian:bookworm"})
    found = json.loads(path.read_text())
    local = found.get("localhost")
    agents = found.get("agents")
    return Surroundings(
        distributions=found.get("distributions", {}),
        localhost=Host(name=local[0], address=IPv4Address(local[1])) if local else None,
        addresses={name: IPv4Address(address) for name, address in found.get("addresses", {}).items()},
        agents={IPv4Address(address): name for address, name in agents.items()} if agents is not None else None,
    )


def _load(name: str, content: bytes | None = None) -> ClusterFile:
    case = HERE / name
    text = (case / "deployment.json").read_bytes() if content is None else content
    return load_bytes(text, file=f"{name}.json", surroundings=_surroundings(case))


def _run(name: str) -> tuple[str, str]:
    try:
        document = to_document(compile_cluster(_load(name)))
    except CaasError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        return "error.txt", f"{error.code.value}: {error.message}\n{hint}"
    return "compile.json", json.dumps(document, indent=1) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    kind, answer = _run(name)
    case = HERE / name
    if os.environ.get("CAAS_GOLDEN_WRITE"):
        for old in ("compile.json", "error.txt"):
            (case / old).unlink(missing_ok=True)
        (case / kind).write_text(answer)
        pytest.skip(f"wrote {kind}")
    expected = [path for path in (case / "compile.json", case / "error.txt") if path.exists()]
    assert [path.name for path in expected] == [kind], answer
    assert expected[0].read_text() == answer


def _original(name: str) -> Any:
    return json.loads((HERE / name / "original.json").read_text())


@pytest.mark.parametrize("name", sorted(set(ORIGINALS) - set(WORKED)))
def test_what_rally_refused_is_refused(name: str) -> None:
    with pytest.raises(CaasError):
        _load(name)


@pytest.mark.parametrize("name", WORKED)
def test_containers_are_called_as_rally_called_them_in_its_order(name: str) -> None:
    hosts = to_document(compile_cluster(_load(name)))["hosts"]
    for host, names in _original(name)["containers"].items():
        assert [one["name"] for one in hosts[host]["containers"]] == names
    clones = {one["name"]: one["clone_of"] for host in hosts.values() for one in host["containers"] if one["clone_of"]}
    assert clones == _original(name)["clones"]


@pytest.mark.parametrize("name", WORKED)
def test_blocks_are_rallys(name: str) -> None:
    original = _original(name)
    hosts = to_document(compile_cluster(_load(name)))["hosts"]
    found = [[host, one["link"], one["address"]] for host, state in hosts.items() for one in state["addresses"]]
    for bridge in original["bridges"]:
        assert bridge in found
    if original["bridges"]:
        assert len(found) == len(original["bridges"])


@pytest.mark.parametrize("name", WORKED)
def test_tunnels_to_peers_are_rallys_and_more_join_the_hosts(name: str) -> None:
    original = _original(name)
    hosts = to_document(compile_cluster(_load(name)))["hosts"]
    links = [link for state in hosts.values() for link in state["links"]]
    tunnels = {(link["local"], link["remote"]) for link in links if link["kind"] == "ipip"}
    ours = [host for host, state in hosts.items() if state["containers"]]
    mesh = {(one, other) for one in ours for other in ours if one != other}
    assert tunnels == mesh | {tuple(pair) for pair in original["tunnels"]}
    rules = [(host, one["from"], one["to"]) for host, state in hosts.items() for one in state["rules"]]
    assert sorted(rules) == sorted((host, source, f"{to}/32") for host, source, to in original["rules"])
    exempt = {
        (host, one["source"], to)
        for host, state in hosts.items()
        for one in state.get("masquerades", ())
        for to in one["exempt"]
    }
    assert {(host, source, f"{to}/32") for host, source, to in original["exempt"]} <= exempt
    for peer, block, source in original["peer_routes"]:
        routes = [one for one in hosts[peer]["routes"] if one["dst"] == block]
        assert [one["src"] for one in routes] == [source]


@pytest.mark.parametrize("name", WORKED)
def test_local_conf_is_written_as_rally_wrote_it(name: str) -> None:
    """With devstack_repo in every DevstackEngine, stack.sh is given Rally's lines."""
    deployment = json.loads((HERE / name / "deployment.json").read_text())
    _add_repo(deployment)
    file = _load(name, json.dumps(deployment).encode())
    specs = list(file.containers.values())
    stacked = [specs[0].devstack, next(spec for spec in reversed(specs) if not spec.clone_of).devstack]
    wanted = _original(name)["local_conf"]
    has_token = any(CONTROLLER_TOKEN in line for devstack in stacked if devstack for line in devstack.lines)
    assert has_token == ("{controller_ip}" in json.dumps(deployment))
    for devstack, lines in zip(stacked, wanted, strict=True):
        assert devstack is not None
        assert devstack.render(DEFAULT_CONTROLLER).splitlines() == lines


def _add_repo(node: Any) -> None:
    if isinstance(node, dict):
        if "DevstackEngine" in (node.get("type"), node.get("name")):
            node["devstack_repo"] = "file:///srv/devstack"
        for value in node.values():
            _add_repo(value)
    elif isinstance(node, list):
        for value in node:
            _add_repo(value)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 27
    assert len(WORKED) >= 6
    assert len(ORIGINALS) > len(WORKED)


@pytest.mark.parametrize(
    "names",
    [
        (
            "2013-11-12_3916d0ed8_devstack-lxc-engine-in-dummy",
            "2014-04-18_6acc580ee_devstack-lxc-engine-in-dummy",
            "2014-04-18_c8240bc26_devstack-lxc-engine-in-dummy",
        ),
        (
            "2013-11-20_18aa88bca_devstack-in-dummy",
            "2013-12-18_c0679ba62_devstack-in-dummy",
            "2014-03-27_352f67b01_devstack-in-existing-servers",
            "2014-04-18_6acc580ee_devstack-in-existing-servers",
            "2014-04-18_c8240bc26_devstack-in-existing-servers",
        ),
        (
            "2013-12-19_33ea28f0c_devstack-in-lxc",
            "2014-03-27_352f67b01_devstack-in-lxc",
            "2014-04-18_6acc580ee_devstack-in-lxc",
            "2014-04-18_c8240bc26_devstack-in-lxc",
        ),
        (
            "2013-11-18_7371dcf7b_multihost",
            "2014-04-18_6acc580ee_multihost",
            "2014-04-18_c8240bc26_multihost",
        ),
    ],
)
def test_every_spelling_is_the_same_cluster(names: tuple[str, ...]) -> None:
    first, *others = (dataclasses.replace(_load(name), name="x") for name in names)
    for other in others:
        assert other == first
        assert to_document(compile_cluster(other))["hosts"] == to_document(compile_cluster(first))["hosts"]
