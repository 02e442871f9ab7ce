"""Golden cases: each folder is one test.

    CASE/cluster.yaml    the file
    CASE/before.yaml     (may be there) what was brought up before, and runs
    CASE/facts.json      (may be there) {"hosts": {HOST: {"links": {LINK: MTU}, "routes": [SUBNET], "underlay_mtu": MTU}
                         }, "natbox": {…, "uplink": [ADDRESS]}, "pairs": {"HOST HOST": {"method", "why"}}}
    CASE/compile.json    what `caas compile --json` prints, or
    CASE/error.txt       what it says instead: the code, the message, the hint

After a wanted change: CAAS_GOLDEN_WRITE=1 python -m pytest tests/golden, then read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from coordinator.compiling import Facts, HostFacts, Remembered, Way, compile_cluster, pair_of, to_document
from coordinator.config import load_bytes
from proto.errors import CaasError

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/cluster.yaml"))


def _host_facts(found: dict[str, Any]) -> HostFacts:
    return HostFacts(
        links=found["links"],
        routes=tuple(IPv4Network(route) for route in found.get("routes", ())),
        underlay_mtu=found.get("underlay_mtu"),
        uplink=tuple(IPv4Address(address) for address in found.get("uplink", ())),
    )


def _facts(case: Path) -> Facts | None:
    path = case / "facts.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return Facts(
        hosts={name: _host_facts(host) for name, host in found["hosts"].items()},
        natbox=_host_facts(found["natbox"]) if "natbox" in found else None,
        pairs={pair_of(*names.split()): Way(**way) for names, way in found.get("pairs", {}).items()},
    )


def _remembered(case: Path) -> Remembered:
    path = case / "before.yaml"
    if not path.exists():
        return Remembered()
    before = compile_cluster(load_bytes(path.read_bytes(), file="before.yaml"), _facts(case))
    return Remembered.of({name: host.state.containers for name, host in before.hosts.items()})


def _run(case: Path) -> tuple[str, str]:
    """The name of the file that holds the answer, and the answer."""
    remembered, facts = _remembered(case), _facts(case)
    try:
        file = load_bytes((case / "cluster.yaml").read_bytes(), file="cluster.yaml")
        document = to_document(compile_cluster(file, facts, remembered))
    except CaasError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        return "error.txt", f"{error.code.value}: {error.message}\n{hint}"
    return "compile.json", json.dumps(document, indent=2) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = HERE / name
    kind, answer = _run(case)
    if os.environ.get("CAAS_GOLDEN_WRITE"):
        for old in ("compile.json", "error.txt"):
            (case / old).unlink(missing_ok=True)
        (case / kind).write_text(answer)
        pytest.skip(f"wrote {kind}")
    expected = [path for path in (case / "compile.json", case / "error.txt") if path.exists()]
    assert [path.name for path in expected] == [kind], answer
    assert expected[0].read_text() == answer


def test_there_are_cases_of_both_kinds() -> None:
    kinds = {path.name for path in HERE.glob("*/*") if path.name in ("compile.json", "error.txt")}
    assert kinds == {"compile.json", "error.txt"}
