"""authorized_keys of containers: equal to the host's, and never written or read through a link."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.containers.keys import has_keys, open_root, read_host_keys, write_keys
from proto.errors import CaasError

KEY = "ssh-ed25519 AAAA somebody\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "c/root").mkdir(parents=True)
    with open_root(tmp_path / "c") as found:
        yield found


def test_keys_are_written_for_root_alone_and_replaced(root: int, tmp_path: Path) -> None:
    file = tmp_path / "c/root/.ssh/authorized_keys"
    assert has_keys(root, None)
    assert write_keys(root, KEY, name="t.c1") == 1
    assert file.read_text() == KEY
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert has_keys(root, KEY)
    assert not has_keys(root, None)
    assert not has_keys(root, KEY + KEY)
    write_keys(root, KEY + KEY, name="t.c1")
    assert file.read_text() == KEY + KEY
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]
    file.chmod(0o666)
    assert not has_keys(root, KEY + KEY), "others can write it: sshd would not take it"


def test_without_keys_the_file_goes(root: int, tmp_path: Path) -> None:
    assert write_keys(root, None, name="t.c1") == 0
    assert not (tmp_path / "c/root/.ssh").exists()
    write_keys(root, KEY, name="t.c1")
    assert write_keys(root, None, name="t.c1") == 1
    assert has_keys(root, None)


@pytest.mark.parametrize("link", ["root", "root/.ssh", "root/.ssh/authorized_keys"])
def test_a_link_leads_nowhere(root: int, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "host"
    (outside / ".ssh").mkdir(parents=True)
    (outside / "authorized_keys").write_text(KEY)
    (outside / ".ssh/authorized_keys").write_text(KEY)
    path = tmp_path / "c" / link
    if path.is_dir():
        path.rmdir()
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside / "authorized_keys" if link.endswith("keys") else outside)
    assert not has_keys(root, KEY)
    if link.endswith("keys"):  # the link itself is replaced
        write_keys(root, KEY + KEY, name="t.c1")
        assert not path.is_symlink()
    else:
        with pytest.raises(CaasError, match=r"t\.c1: /root/\.ssh"):
            write_keys(root, KEY + KEY, name="t.c1")
    assert (outside / "authorized_keys").read_text() == KEY
    assert (outside / ".ssh/authorized_keys").read_text() == KEY


def test_the_machines_own_root_folder_is_no_containers() -> None:
    with pytest.raises(CaasError, match="machine's own"), open_root(Path(f"/proc/{os.getpid()}/root")):
        pass


def test_the_hosts_keys_are_read_as_they_are(tmp_path: Path, root: int) -> None:
    file = tmp_path / "authorized_keys"
    assert read_host_keys(file) is None
    file.write_text("\n")
    assert read_host_keys(file) is None, "nobody is in it"
    file.write_bytes(b"ssh-ed25519 AAAA J\xfcrgen\n")
    write_keys(root, read_host_keys(file), name="t.c1")
    assert (tmp_path / "c/root/.ssh/authorized_keys").read_bytes() == file.read_bytes()
    assert has_keys(root, read_host_keys(file))
