"""docs/dependencies.md names every package that the Makefile and setup.cfg ask for, and no other."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def documented(heading: str) -> set[str]:
    """The packages in the first column of the table under *heading*."""
    text = (ROOT / "docs/dependencies.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_debian_packages() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    found = re.search(r"^PACKAGES := (.*)$", text, re.MULTILINE)
    assert found
    assert documented("Debian packages") == set(found[1].split())


def test_python_packages() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].split() + config["options.extras_require"]["dev"].split()
    names = {re.split(r"[<>=]", requirement)[0] for requirement in wanted}
    assert documented("Python packages") == names
