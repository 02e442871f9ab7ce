"""`caas check` and `caas compile`: no daemon, one document or one error, and the exit status of the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from coordinator.cli.main import COMMANDS, cli
from proto.errors import CaasError, Code


def _run(*arguments: str) -> Result:
    # A place where nothing listens: these commands must not look.
    return CliRunner().invoke(cli, list(arguments), prog_name="caas", env={"CAAS_COORDINATOR": "/nowhere/at/all"})


@pytest.fixture
def wrong(tmp_path: Path, demo: str) -> str:
    path = tmp_path / "wrong.yaml"
    path.write_text(Path(demo).read_text().replace("vlan: 100", "vlan: 5000").replace("trunk: eth1}", "trnk: eth1}", 1))
    return str(path)


def test_check_of_a_good_file(demo: str) -> None:
    result = _run("check", demo)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "cluster demo: 2 hosts, 1 network, 1 container: all right" in result.stdout


@pytest.fixture
def published(tmp_path: Path, demo: str) -> str:
    path = tmp_path / "published.yaml"
    path.write_text(Path(demo).read_text() + "publish: api\n")
    return str(path)


def test_check_of_a_file_that_publishes_asks_what_other_clusters_have(caas: Any, published: str, demo: str) -> None:
    caas.coordinator.documents["Check"] = {"cluster": "demo"}
    result = caas.run("check", published)
    assert (result.exit_code, result.stderr) == (0, "")
    ((call, request),) = caas.coordinator.calls
    assert (call, request.name, request.content) == ("Check", "demo", Path(published).read_bytes())
    caas.coordinator.failures["Check"] = CaasError(
        Code.INVALID, "x.yaml:12: cluster blue publishes that", hint="another"
    )
    result = caas.run("check", published)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: x.yaml:12: cluster blue publishes that\nhint: another\n"
    assert caas.run("check", demo).exit_code == 0, "it publishes nothing"
    assert len(caas.coordinator.calls) == 2


def test_check_without_a_coordinator_says_what_is_not_known(published: str) -> None:
    result = _run("check", published)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: whether another cluster publishes the same is not known: no coordinator")
    assert "all right" in result.stdout


@pytest.mark.parametrize("command", ["check", "compile", "plan", "up"])
def test_every_mistake_goes_to_standard_error_with_status_2(command: str, wrong: str) -> None:
    result = _run(command, wrong)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"error: {wrong}: 2 problems" in result.stderr
    assert f"{wrong}:4: hosts.host1.trnk: unknown key 'trnk'\n    hint: did you mean 'trunk'?" in result.stderr
    assert f"{wrong}:8: networks.cluster.vlan: VID 5000" in result.stderr


def test_one_mistake_is_an_error_and_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("")
    result = _run("check", str(path))
    assert result.exit_code == 2
    assert result.stderr == f"error: {path}:1: the file is empty\nhint: see examples/demo.yaml\n"


@pytest.mark.parametrize("command", ["check", "compile", "plan", "up"])
def test_a_file_that_is_not_there(command: str) -> None:
    result = _run(command, "/no/such.yaml")
    assert result.exit_code == 2
    assert "error: /no/such.yaml: No such file" in result.stderr


def test_compile_json_is_one_document_and_nothing_else(demo: str) -> None:
    result = _run("compile", "--json", demo)
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["cluster"] == "demo"
    assert document["hosts"]["host1"]["containers"][0]["address"] == "192.168.10.50/24"
    assert len(document["warnings"]) == 1
    assert _run("compile", "--json", demo).stdout == result.stdout


def test_compile_for_people(demo: str) -> None:
    result = _run("compile", demo)
    assert result.exit_code == 0
    assert "warning: no host was asked" in result.stderr
    for word in ("eth1.100", "lxcbr100", "ubuntu011", "192.168.10.50/24", "nova-controller", "192.168.10.1"):
        assert word in result.stdout


def test_compile_for_people_says_what_is_published(tmp_path: Path, demo: str) -> None:
    path = tmp_path / "published.yaml"
    text = Path(demo).read_text().replace("10.1}", "10.1, external: 203.0.113.7, limits: {connections: 9}}")
    text = text.replace("compute]}", "compute], external: 203.0.113.8}")
    path.write_text(text + "publish: {port: 80, to: ubuntu011:8080}\n")
    assert _run("compile", str(path)).stdout.endswith(
        "  cluster: external 203.0.113.7\n"
        "  cluster: publish 203.0.113.7:80/tcp to 192.168.10.50:8080, ubuntu011\n"
        "  cluster: own address 203.0.113.8 of 192.168.10.50, ubuntu011\n"
        "  cluster: limits connections 9\n"
    )
    assert "cluster:" not in _run("compile", demo).stdout


def test_the_name_of_a_file_without_one(tmp_path: Path, demo: str) -> None:
    path = tmp_path / "stem.yaml"
    path.write_text(Path(demo).read_text().replace("name: demo\n", ""))
    assert json.loads(_run("compile", "--json", str(path)).stdout)["cluster"] == "stem"
    assert json.loads(_run("compile", "--json", "--name", "other", str(path)).stdout)["cluster"] == "other"
    assert _run("compile", "--name", "other", demo).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["check"], ["compile", "--nope", "f"], ["status", "a", "b"], ["exec", "demo"]]
)
def test_a_wrong_call_has_status_2(arguments: list[str]) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: caas" in result.stderr


def test_a_mistyped_command_is_told_its_nearest() -> None:
    assert "did you mean 'compile'?" in _run("compil").stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: caas {command}")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("lab", "image", "natbox")])
def test_help_shows_an_example_and_the_exit_statuses(command: str) -> None:
    text = _run(command, "--help").stdout
    assert f"Example:\n    caas {command}" in text or f'Example:\n    eval "$(caas {command}' in text
    assert "Exit status:\n" in text


def test_version() -> None:
    result = _run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "caas")
