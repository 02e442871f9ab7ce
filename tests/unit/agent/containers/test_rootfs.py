"""The danger this project must never meet again: a container that boots the machine's own root file system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.containers.config import expected_rootfs
from agent.containers.inside import resolve_inside, work_inside
from agent.containers.liblxc import check_startable, last_reasons
from agent.containers.record import Record
from agent.containers.rootfs import Storage, check_rootfs
from proto.errors import CaasError, Code
from tests.unit.agent.containers.things import make_record


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A container's folder beside an image's root file system; nothing in it is ever started."""
    for folder in ("image/sbin", "c/delta/upper", "c/rootfs/sbin"):
        (tmp_path / folder).mkdir(parents=True)
    for root in ("image", "c/rootfs"):
        (tmp_path / root / "sbin/init").touch()
    return tmp_path / "c"


def record_for(place: Path, storage: Storage) -> Record:
    return make_record(image_rootfs=place.parent / "image", storage=storage)


@pytest.mark.parametrize("storage", list(Storage))
def test_what_liblxc_must_say(place: Path, storage: Storage) -> None:
    record = record_for(place, storage)
    check_startable(expected_rootfs(record, place), record, place)


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("read_back", ["", None, "/", "/var/lib/lxc/c/rootfs", "overlay:", "dir:/", ["/"], 0])
def test_refused_unless_it_reads_back(place: Path, storage: Storage, read_back: Any) -> None:
    with pytest.raises(CaasError, match="not started") as failure:
        check_startable(read_back, record_for(place, storage), place)
    assert failure.value.code is Code.REFUSED


@pytest.mark.parametrize("storage", list(Storage))
def test_refused_when_it_is_not_there(place: Path, storage: Storage) -> None:
    record = record_for(place, storage)
    (place.parent / "image" if storage is Storage.OVERLAY else place / "rootfs").rename(place.parent / "away")
    with pytest.raises(CaasError, match="not a root file system") as failure:
        check_startable(expected_rootfs(record, place), record, place)
    assert failure.value.code is Code.NOT_FOUND


def test_refused_without_the_delta(place: Path) -> None:
    record = record_for(place, Storage.OVERLAY)
    (place / "delta/upper").rmdir()
    with pytest.raises(CaasError, match=r"delta/upper is missing"):
        check_startable(expected_rootfs(record, place), record, place)


@pytest.mark.parametrize("path", ["/", "/.", "/usr/..", "relative", "/nonexistent-caas"])
def test_no_root_file_system(path: str) -> None:
    with pytest.raises(CaasError, match="not a root file system"):
        check_rootfs(Path(path), owner="image x", hint="")


def test_a_link_to_the_machines_root_is_none(tmp_path: Path) -> None:
    (tmp_path / "rootfs").symlink_to("/")
    with pytest.raises(CaasError, match="not a root file system"):
        check_rootfs(tmp_path / "rootfs", owner="image x", hint="")


def test_links_are_followed_inside_only(tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/init").symlink_to("/bin/sh")  # the machine has one, this root file system does not
    assert resolve_inside(tmp_path, "sbin/init") is None
    with pytest.raises(CaasError, match="has no /sbin/init"):
        check_rootfs(tmp_path, owner="image x", hint="")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/sh").touch()
    assert resolve_inside(tmp_path, "sbin/init") == tmp_path / "usr/bin/sh"
    check_rootfs(tmp_path, owner="image x", hint="")


@pytest.mark.parametrize("target", ["../../../../bin/sh", "init", "/sbin/../sbin/init"])
def test_links_that_lead_out_or_in_circles(tmp_path: Path, target: str) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/init").symlink_to(target)
    assert resolve_inside(tmp_path, "sbin/init") is None


def test_the_reason_comes_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "lxc.log"
    log.write_text(
        "lxc t.c 20261120110349.647 WARN     cgfsng - ../src/lxc/cgroups/cgfsng.c:setup:3232 - Invalid - Ignoring\n"
        'lxc t.c 20261120110349.648 ERROR    network - ../src/lxc/network.c:veth:711 - No such file - no bridge "br0"\n'
        "lxc t.c 20261120110349.661 ERROR    start - ../src/lxc/start.c:lxc_spawn:1840 - Failed to create the network\n"
    )
    assert last_reasons(log) == 'No such file - no bridge "br0"; Failed to create the network'
    assert last_reasons(tmp_path / "none") == "no reason given"


def test_nothing_is_done_inside_the_machines_own_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of a container is cleaned by paths like /run: whatever goes wrong, never the machine's."""
    done = tmp_path / "done"
    (tmp_path / "link").symlink_to("/")
    for root in (Path("/"), tmp_path / "link"):
        with pytest.raises(CaasError, match="the machine's own root directory") as failure:
            work_inside(root, done.touch, owner="c1")
        assert failure.value.code is Code.REFUSED
    monkeypatch.setattr(os, "chroot", lambda path: None)
    with pytest.raises(CaasError, match="still in the machine's own root directory"):
        work_inside(tmp_path, done.touch, owner="c1")
    assert not done.exists()
