"""Secrets: different for each cluster, whole, and never shown."""

from __future__ import annotations

import base64
import pickle

import pytest

from coordinator.nova import Secrets, make_secrets
from proto.errors import CaasError, Code


def test_no_two_are_alike() -> None:
    one, other = make_secrets().to_dict(), make_secrets().to_dict()
    assert len(set(one.values()) | set(other.values())) == 2 * len(one)


def test_passwords_are_long_and_keys_are_fernet_keys() -> None:
    secrets = make_secrets()
    assert len(base64.urlsafe_b64decode(secrets.fernet_key)) == 32
    assert all(len(value) >= 36 for value in secrets.to_dict().values())


def test_kept_and_read_back() -> None:
    secrets = make_secrets()
    assert Secrets.from_dict(secrets.to_dict()) == secrets
    assert pickle.loads(pickle.dumps(secrets)) == secrets


def test_no_representation_shows_one() -> None:
    secrets = make_secrets()
    for text in (repr(secrets), str(secrets), f"{secrets}", f"{[secrets]}"):
        assert not any(value in text for value in secrets.to_dict().values())


def test_errors_are_redacted() -> None:
    secrets = make_secrets()
    error = CaasError(Code.FAILED, f"x {secrets.admin_password} y", hint=f"z {secrets.fernet_key}")
    assert secrets.redacted(error) == CaasError(Code.FAILED, "x *** y", hint="z ***")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"admin_password": None}, "missing admin_password"),
        ({"extra": "a" * 48}, "unknown extra"),
        ({"admin_password": "sh'rt"}, "admin_password is missing or malformed"),
        ({"admin_password": "a' OR 'b' = 'b and so on"}, "admin_password is missing or malformed"),
    ],
)
def test_broken_ones_are_refused_without_showing_them(change: dict[str, str | None], message: str) -> None:
    values = {key: value for key, value in {**make_secrets().to_dict(), **change}.items() if value is not None}
    with pytest.raises(CaasError, match=message) as caught:
        Secrets.from_dict(values)
    assert not any(value in str(caught.value) for value in values.values())
