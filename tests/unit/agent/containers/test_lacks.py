"""What a machine lacks, each with the command that mends it; nothing where all is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers import lacks
from agent.containers.cgroups import Hierarchy
from agent.containers.image import ImageStore
from agent.containers.rootfs import Storage
from agent.core.doors import Lack, ObservedContainer
from proto.errors import CaasError, Code
from proto.model import Container
from tests.unit.agent.containers.things import make_container

ALL = frozenset({"memory", "pids", "cpu", "devices"})
GIB = 2**30


class Machine:
    """What the looks at the machine answer; changed by each test. Its store has a build of `box`, with systemd."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.free = self.memory = 64 * GIB
        self.instances = 100_000
        self.hierarchies: tuple[Hierarchy, ...] = (Hierarchy(path=path, version=2, controllers=ALL),)
        self.running: tuple[ObservedContainer, ...] = ()
        self.storage = Storage.OVERLAY
        monkeypatch.setattr(lacks, "_missing_programs", lambda: ())
        monkeypatch.setattr(lacks, "_available_memory", lambda: self.memory)
        monkeypatch.setattr(lacks, "find_hierarchies", lambda: self.hierarchies)
        monkeypatch.setattr(lacks, "_inotify_instances", lambda: self.instances)
        monkeypatch.setattr(lacks, "_free_disk", lambda _: self.free)
        build = path / "images/box" / ("1" * 32)
        (build / "rootfs/sbin").mkdir(parents=True)
        (build / "rootfs/sbin/init").touch()
        manifest = {
            "name": "box",
            "digest": "1" * 32,
            "builder": "mmdebstrap",
            "halt_signal": "SIGRTMIN+3",
            "systemd": True,
            "created": 1.0,
            "seconds": 1.0,
            "size_bytes": GIB,
            "packages": {},
        }
        (build / "manifest.json").write_text(json.dumps(manifest))

    def observe(self) -> Sequence[ObservedContainer]:
        return self.running

    def lacks(self, *desired: Container) -> tuple[Lack, ...]:
        store = ImageStore(self.path / "images", self.path / "none")
        return lacks.find_lacks(self.path, store, desired, self.observe, lambda _: self.storage)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def box(name: str = "c1", *roles: str) -> Container:
    return make_container(name, image="box", roles=roles)


def test_a_machine_that_has_all(machine: Machine) -> None:
    assert machine.lacks() == ()
    assert machine.lacks(box("c1", "controller"), box("c2", "compute")) == ()


def test_an_image_that_was_not_built(machine: Machine) -> None:
    (lack,) = machine.lacks(make_container(image="nonesuch"), make_container("c2", image="nonesuch"))
    assert "nonesuch" in lack.what
    (machine.path / "none").mkdir()
    (machine.path / "none/declared.yaml").write_text("name: declared\npackages: [systemd-sysv]\n")
    (lack,) = machine.lacks(make_container(image="declared"))
    assert lack == Lack(what="image declared: not built", mend="caas image build declared")


def test_memory_is_counted_for_what_does_not_run_yet(machine: Machine) -> None:
    machine.memory = GIB
    (lack,) = machine.lacks(box("c1", "controller"))
    assert lack.what.startswith("memory: about 2,040 MiB needed for 1 containers, 1,024 MiB available")
    machine.running = (ObservedContainer(container=box("c1", "controller"), pid=7, memory_bytes=1),)
    assert machine.lacks(box("c1", "controller")) == ()
    assert machine.lacks(box("c1", "controller"), box("c2", "compute")) == ()
    assert len(machine.lacks(*(box(f"c{number}", "compute") for number in range(8)))) == 1


def test_disk(machine: Machine) -> None:
    machine.free = GIB
    assert machine.lacks(box()) == ()
    machine.storage = Storage.COPY
    (lack,) = machine.lacks(box())
    assert lack.what.startswith("disk: 1,686 MiB needed")
    machine.running = (ObservedContainer(container=box(), pid=7, memory_bytes=1),)
    assert machine.lacks(box()) == ()


def test_a_clone_counts_as_what_it_is_cloned_from(machine: Machine) -> None:
    """Its image needs no declaration and no build of its own."""
    machine.running = (ObservedContainer(container=box("c1", "compute"), pid=7, memory_bytes=1),)
    clones = [replace(box(f"c{number}", "compute"), clone_of="c1") for number in range(2, 9)]
    assert machine.lacks(box("c1", "compute"), *clones) == ()
    machine.memory = machine.free = GIB
    assert [lack.what.split(":")[0] for lack in machine.lacks(*clones)] == ["disk", "memory"]
    unknown = replace(clones[0], image="nonesuch")
    assert not [lack for lack in machine.lacks(unknown) if "nonesuch" in lack.what]


def test_inotify(machine: Machine) -> None:
    machine.instances = 128
    assert machine.lacks(*(box(f"c{number}") for number in range(13))) == ()
    (lack,) = machine.lacks(*(box(f"c{number}") for number in range(14)))
    assert lack.what == "fs.inotify.max_user_instances is 128; 14 containers with systemd need about 130"
    assert lack.mend == "sysctl -w fs.inotify.max_user_instances=1024"


@pytest.mark.parametrize("missing", sorted(ALL))
def test_cgroup_controllers(machine: Machine, missing: str) -> None:
    machine.hierarchies = (Hierarchy(path=machine.path, version=1, controllers=ALL - {missing}),)
    (lack,) = machine.lacks(box())
    assert lack.what == f"cgroup controllers missing: {missing}"
    machine.hierarchies = (Hierarchy(path=machine.path, version=2, controllers=ALL - {"devices"}),)
    assert machine.lacks(box()) == (), "v2 has no devices controller, and needs none"
    machine.hierarchies = ()
    assert machine.lacks(box())[0].what == "no cgroups are mounted"


def test_no_liblxc(machine: Machine) -> None:
    def observe() -> Sequence[ObservedContainer]:
        raise CaasError(Code.UNSUPPORTED, "liblxc's Python binding is missing", hint="apt-get install lxc python3-lxc")

    machine.observe = observe  # type: ignore[method-assign]
    (lack,) = machine.lacks(box())
    assert lack.mend == "apt-get install lxc python3-lxc"
