"""docs/cluster-file.md says every key there is, and its example is right."""

from __future__ import annotations

import re
from pathlib import Path

from coordinator.config import load_bytes
from coordinator.config.cluster import OVERLAYS, VIRT_DRIVERS
from coordinator.config.document import _KEYS
from coordinator.config.publishing import API_KEYS, LIMITS_KEYS, PUBLISH_KEYS
from coordinator.nova.roles import ROLE_WORDS

TEXT = (Path(__file__).parents[4] / "docs/cluster-file.md").read_text()


def test_the_example_is_a_cluster_file() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    file = load_bytes(example.encode(), file="example.yaml")
    assert (file.name, list(file.containers)) == ("example", ["ubuntu011", "ubuntu012"])


def test_every_key_and_every_word_is_there() -> None:
    keys = {
        key
        for required, optional in (*_KEYS.values(), API_KEYS, LIMITS_KEYS, PUBLISH_KEYS)
        for key in (*required, *optional)
    }
    assert {word for word in (*keys, *OVERLAYS, *VIRT_DRIVERS, *ROLE_WORDS) if f"`{word}`" not in TEXT} == set()
