"""Looking into a container from outside: no link leads out of it, and sockets are read as the kernel prints them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.containers.inspecting import _look_at_ports, open_in_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/inner").write_text("inside")
    (tmp_path / "outer").write_text("outside")
    opened = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def read(root: int, path: str) -> str:
    with open(open_in_root(root, path, os.O_RDONLY)) as file:
        return file.read()


@pytest.mark.parametrize("target", ["/etc/inner", "inner", "../../../etc/inner", "/../etc/../etc/inner"])
def test_links_are_followed_as_in_the_container(root: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "root/etc/link").symlink_to(target)
    assert read(root, "/etc/link") == "inside"


@pytest.mark.parametrize("target", ["{outer}", "../../outer", "/../outer", "../../../../../../..{outer}"])
def test_no_link_leads_out(root: int, tmp_path: Path, target: str) -> None:
    (tmp_path / "root/etc/link").symlink_to(target.format(outer=tmp_path / "outer"))
    assert (tmp_path / "outer").read_text() == "outside"
    with pytest.raises(FileNotFoundError):
        read(root, "/etc/link")


def test_a_magic_link_is_not_followed(root: int, tmp_path: Path) -> None:
    """/proc/PID/root, as a container has it too, leads to another root."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="levels of symbolic links"):
            open_in_root(proc, f"/{os.getpid()}/root/etc", os.O_RDONLY)
    finally:
        os.close(proc)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_listening_port_is_seen(address: str) -> None:
    with socket.create_server((address, 0)) as server, socket.create_server(("127.0.0.2", 0)) as other:
        port, elsewhere = server.getsockname()[1], other.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            connected = client.getsockname()[1]
            places = (f"127.0.0.1:{port}", f"127.0.0.1:{elsewhere}", f"127.0.0.1:{connected}")
            assert list(_look_at_ports(os.getpid(), places).values()) == [True, False, False]


def test_a_port_of_ipv6_at_all_addresses_takes_ipv4_too() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        assert _look_at_ports(os.getpid(), (place,)) == {place: True}
