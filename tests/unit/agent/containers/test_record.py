"""A container comes back from its folder exactly as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers.record import container_from_json, container_to_json, read_record, write_record
from agent.containers.rootfs import Storage
from proto.errors import CaasError
from tests.unit.agent.containers.things import make_container, make_record

CONTAINERS = [
    make_container(),
    make_container(clone_of="c0", running=False, roles=(), hosts=()),
    make_container(ssh=True),
    make_container(ssh=None),
    replace(make_container(), nic=replace(make_container().nic, gateway=None)),
]


@pytest.mark.parametrize("container", CONTAINERS)
def test_round_trip(container: object) -> None:
    assert container_from_json(json.loads(json.dumps(container_to_json(container)))) == container  # type: ignore[arg-type]


def test_one_of_before_there_was_ssh_lets_nobody_in() -> None:
    data = container_to_json(make_container(ssh=True))
    del data["ssh"]
    assert container_from_json(data) == make_container()


@pytest.mark.parametrize("storage", list(Storage))
def test_on_disk(tmp_path: Path, storage: Storage) -> None:
    record = make_record(storage=storage, systemd=True)
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["caas.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}'])
def test_a_broken_one_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "caas.json").write_text(text)
    with pytest.raises(CaasError, match="cannot be read") as failure:
        read_record(tmp_path)
    assert str(tmp_path / "caas.json") in failure.value.message
