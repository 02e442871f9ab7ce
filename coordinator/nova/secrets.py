"""A cluster's secrets: made once, kept by the coordinator, written only to files that root or one service reads.

They reach a container through standard input, never through a command line, and no repr, log line or error
message shows them (`Secrets.redact`).
"""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import secrets as system_secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proto.errors import CaasError, Code, invalid

REDACTED = "***"
#: Bytes of each password and of the Erlang cookie: 192 bits, written as hex so that no file format must quote it.
PASSWORD_BYTES = 24
#: cryptography.fernet: 32 bytes, URL-safe base64.
FERNET_BYTES = 32
#: What each looks like: nothing that any file format here would have to quote.
_PLAIN = re.compile(r"[A-Za-z0-9_=-]{16,}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Secrets:
    """What must be known to reach a cluster's services, and the id of its cell (not secret, but its own)."""

    cell_uuid: str
    admin_password: str
    rabbit_password: str
    erlang_cookie: str
    database_keystone: str
    database_glance: str
    database_placement: str
    database_nova: str
    database_neutron: str
    user_glance: str
    user_placement: str
    user_nova: str
    user_neutron: str
    fernet_key: str
    fernet_key_next: str
    credential_key: str
    credential_key_next: str

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if (
                not isinstance(value, str)
                or len(value) < 16
                or not value.isascii()
                or any(c in value for c in "'\"\\ \n")
            ):
                raise invalid(f"secrets: {name} is missing or malformed")

    def __repr__(self) -> str:
        return f"Secrets({REDACTED})"

    def to_dict(self) -> dict[str, str]:
        """Plain values, for the coordinator's own storage. Never log it."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Secrets:
        """What to_dict() gave. INVALID names the keys that are missing or unknown, never a value."""
        known = {item.name for item in dataclasses.fields(cls)}
        if known != set(values):
            raise invalid(
                "secrets: "
                + "; ".join(
                    f"{what} {', '.join(sorted(names))}"
                    for what, names in (("missing", known - set(values)), ("unknown", set(values) - known))
                    if names
                )
            )
        return cls(**values)

    def redact(self, text: str) -> str:
        """*text* with every secret in it replaced."""
        for name, value in self.to_dict().items():
            if name != "cell_uuid":
                text = text.replace(value, REDACTED)
        return text

    def redacted(self, error: CaasError) -> CaasError:
        """*error* without secrets in its message and hint."""
        return CaasError(Code(error.code), self.redact(error.message), hint=self.redact(error.hint))


def make_secrets() -> Secrets:
    """New secrets from the system's random source."""
    values: dict[str, str] = {"cell_uuid": str(uuid.uuid4())}
    for item in dataclasses.fields(Secrets):
        if item.name == "cell_uuid":
            continue
        if item.name.startswith(("fernet_", "credential_")):
            values[item.name] = base64.urlsafe_b64encode(os.urandom(FERNET_BYTES)).decode()
        else:
            values[item.name] = system_secrets.token_hex(PASSWORD_BYTES)
    return Secrets(**values)
