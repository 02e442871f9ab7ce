"""The lab's SSH key (ed25519, RFC 8709) and its hosts' files of those who are let in.

The lab's hosts share the machine's file system, and with it one /root/.ssh: each has a file of its own instead. What
is there is kept, so that a key added to a host's file stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.lab.certificates import write_private


def make_ssh_keys(private: Path, authorized: Iterable[Path], *, lab: str) -> None:
    """Make the key pair *private* (0600) and *private*.pub where they are not there, and let it in by each file of
    *authorized* that is not there."""
    public = private.with_name(private.name + ".pub")
    if not (private.exists() and public.exists()):
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_pair(private, public, comment=f"caas lab {lab}")
    for path in authorized:
        if not path.exists():
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_private(path, public.read_bytes(), uid=os.geteuid(), mode=0o600)


def _make_pair(private: Path, public: Path, *, comment: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    # The public one last: until it is there, the next run begins again.
    write_private(private, text, uid=os.geteuid(), mode=0o600)
    write_private(public, line + f" {comment}\n".encode(), uid=os.geteuid(), mode=0o644)
