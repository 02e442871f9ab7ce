"""Real containers, each test's in a network namespace and a folder of its own; all is gone afterwards, also on failure.

The state's folder comes from CAAS_TEST_STATE where it is set (a tmpfs in a guest whose root file system takes no
overlay), else from pytest.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from proto.model import Container, HostEntry, Nic

CLONE_NEWNET = 0x40000000
BRIDGE = "br0"
_serial = itertools.count()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with test-busybox built."""
    folder = Path(os.environ.get("CAAS_TEST_STATE") or tmp_path_factory.mktemp("images")) / "images"
    build_image(ImageStore(folder), "test-busybox")
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for an agent's state."""
    base = os.environ.get("CAAS_TEST_STATE")
    folder = Path(tempfile.mkdtemp(dir=base, prefix="state-")) if base else tmp_path / "state"
    folder.mkdir(exist_ok=True)
    yield folder
    assert str(folder) not in Path("/proc/self/mountinfo").read_text(), "a mount was left"
    shutil.rmtree(folder)


@pytest.fixture
def host() -> Iterator[str]:
    """A network namespace with a bridge; the test's thread (and what it starts) is in it. Its name is given."""
    name = f"caaslxc-{os.getpid()}-{next(_serial)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as undo:
        undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        before = undo.enter_context(open("/proc/thread-self/ns/net", "rb"))
        with open(f"/run/netns/{name}", "rb") as inside:
            assert libc.setns(inside.fileno(), CLONE_NEWNET) == 0
        undo.callback(libc.setns, before.fileno(), CLONE_NEWNET)
        for command in (
            "link set lo up",
            f"link add {BRIDGE} type bridge",
            f"link set {BRIDGE} up",
            f"addr add 10.9.0.1/16 dev {BRIDGE}",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield name


def make_container(number: int = 1, **changes: Any) -> Container:
    """Container number *number* of cluster `t` on the test's bridge; *changes* are fields."""
    hostname = str(changes.pop("hostname", f"c{number}"))
    nic = Nic(
        bridge=BRIDGE,
        port=f"t.{hostname}"[:15],
        mac=f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
        mtu=1450,
        address=IPv4Interface(f"10.9.{1 + (number >> 8)}.{number & 255}/16"),
        gateway=IPv4Address("10.9.0.1"),
    )
    hosts = (HostEntry(address=nic.address.ip, names=(hostname, f"{hostname}.example")),)
    fields = {"cluster": "t", "hostname": hostname, "image": "test-busybox", "nic": nic, "hosts": hosts, "roles": ()}
    return Container(**{**fields, **changes})


@pytest.fixture
def container() -> Callable[..., Container]:
    return make_container


@pytest.fixture
def open_door(host: str, state: Path, images: Path) -> Iterator[Callable[..., LxcDoor]]:
    """Opens doors to *state*; whatever is behind the last one is deleted afterwards, also on failure."""
    opened: list[LxcDoor] = []

    def opener(**options: Any) -> LxcDoor:
        opened.append(LxcDoor(state, **{"images": images, "workers": 4, "stop_patience": 10, **options}))
        return opened[-1]

    yield opener
    for door in opened[:-1]:
        door.close()
    for last in opened[-1:]:
        for seen in last.observe():
            last.delete(seen.container)
        left = [path.name for path in last.lxcpath.iterdir()]
        last.close()
        assert not left, f"left in {last.lxcpath}: {left}"


@pytest.fixture
def door(open_door: Callable[..., LxcDoor]) -> LxcDoor:
    return open_door()


@pytest.fixture
async def exec_door(door: LxcDoor, state: Path) -> AsyncIterator[ExecDoor]:
    """Runs commands in the containers behind *door*."""
    opened = ExecDoor(state)
    yield opened
    opened.close()
