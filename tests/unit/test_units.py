"""The units: each starts a program of ours with options that it takes, and none is left out of `make install`."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import agent.containers.starter
import agent.rpc.main
import coordinator.rpc.main
import natbox.main

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted(
    path.relative_to(ROOT)
    for part in ("agent", "natbox", "coordinator")
    for path in ROOT.glob(f"{part}/systemd/*.service")
)
PARSERS: dict[str, Callable[[list[str]], object]] = {
    "caas-agent": agent.rpc.main.parse,
    "caas-containers": agent.containers.starter.parse,
    "caas-natbox": natbox.main.parse,
    "caas-coordinator": coordinator.rpc.main.parse,
}


def read_service(unit: Path) -> dict[str, list[str]]:
    """Each setting of [Service] with its values, continued lines joined."""
    found: dict[str, list[str]] = {}
    text = (ROOT / unit).read_text().split("[Service]\n")[1].split("\n[")[0].replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_programs_take_their_options(unit: Path) -> None:
    service = read_service(unit)
    commands = [line for name in ("ExecStart", "ExecStop") for line in service.get(name, []) if "@PREFIX@" in line]
    assert commands
    for line in commands:
        program, *arguments = shlex.split(line)
        PARSERS[Path(program).name]([word for word in arguments if word != "$OPTIONS"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_daemon_says_when_it_serves_and_is_started_again(unit: Path) -> None:
    service = read_service(unit)
    if service["Type"] != ["oneshot"]:
        assert (service["Type"], service["Restart"]) == (["notify"], ["always"])


def test_what_starts_containers_hands_nothing_on_and_takes_nothing_along() -> None:
    service = read_service(Path("agent/systemd/caas-containers.service"))
    assert (service["KillMode"], service["Delegate"]) == (["process"], ["yes"])
    assert not [name for name in service if re.match(r"Protect|Restrict|Private|Capability|NoNew|SystemCall", name)]


def test_all_are_installed_and_every_program_is_an_entry_point() -> None:
    listed = re.search(r"^UNITS := (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", " "), re.MULTILINE)
    assert listed
    assert sorted(listed[1].split()) == [str(unit) for unit in UNITS]
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = {line.split(" = ")[0] for line in config["options.entry_points"]["console_scripts"].split("\n") if line}
    assert PARSERS.keys() <= scripts
