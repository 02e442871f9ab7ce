"""The lab's SSH key, as ssh-keygen reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from coordinator.lab.ssh_keys import make_ssh_keys


def test_the_pair_is_one_and_stays(tmp_path: Path) -> None:
    private, files = tmp_path / "ssh/id_ed25519", [tmp_path / name / "authorized_keys" for name in ("host1", "host2")]
    make_ssh_keys(private, files, lab="lab")
    argv = ["ssh-keygen", "-y", "-P", "", "-f", str(private)]  # refuses a key that others can read
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    public = (tmp_path / "ssh/id_ed25519.pub").read_text()
    assert public.split()[:2] == shown.split()[:2]
    assert [file.read_text() for file in files] == [public, public]
    assert private.stat().st_mode & 0o777 == 0o600
    files[0].write_text(public + "ssh-ed25519 BBBB mine\n")
    files[1].unlink()
    before = private.read_bytes()
    make_ssh_keys(private, files, lab="lab")
    assert private.read_bytes() == before
    assert files[0].read_text().endswith("mine\n")
    assert files[1].read_text() == public
