"""Whatever is changed in a deployment file, it is a cluster that compiles, or mistakes with their places."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiling import compile_cluster, to_document
from coordinator.config import ConfigError, Surroundings, load_bytes

CASES = Path(__file__).parents[3] / "golden" / "rally"
FILES = [
    json.loads((CASES / name / "deployment.json").read_text())
    for name in ("seed", "picture", "forward-ssh", "obstacles", "two-networks-on-one-host")
]
WORDS = [
    *("", "localhost", "{controller_ip}", "{contoller_ip}", "10.2.0.8", "host.net", "10.100.1.0/24", "10.0.3.0/24"),
    *(
        "255.255.255.0/24",
        "0.0.0.0/8",
        "10.100.0.0/30",
        "LxcEngine",
        "DevstackEngine",
        "MultihostEngine",
        "LxcProvider",
    ),
    *(
        "DummyProvider",
        "ExistingCloud",
        "ubuntu",
        "debian",
        "n-cpu",
        "-n-cpu",
        "n-api,n-cpu",
        "A_b",
        "x" * 70,
        "root@a",
    ),
]
leaves = st.none() | st.booleans() | st.integers(-1, 300) | st.sampled_from(WORDS)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner)
)


def _slots(node: Any) -> list[tuple[Any, Any]]:
    """Every place of *node* where something can be put: container and key or index."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [slot for key in keys for slot in [(node, key), *_slots(node[key])]]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_every_slip_is_told_or_compiles(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(_slots(document)))
        change = data.draw(st.sampled_from(["put", "drop", "rename", "twice"]))
        if change == "put":
            holder[key] = data.draw(values)
        elif change == "drop":
            del holder[key]
        elif change == "rename" and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        if not _slots(document):
            break
    surroundings = Surroundings(distributions={"ubuntu": "debian:bookworm"})
    try:
        file = load_bytes(json.dumps(document, indent=1).encode(), file="x.json", surroundings=surroundings)
    except ConfigError as error:
        lost = [problem for problem in error.problems if not problem.line or not problem.message]
    else:
        lost = []
        compiled = to_document(compile_cluster(file))
        assert sum(len(host["containers"]) for host in compiled["hosts"].values()) == len(file.containers) > 0
    assert lost == []
