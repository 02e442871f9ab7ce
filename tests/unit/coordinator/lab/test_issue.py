"""Certificates made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from coordinator.lab.issue import main


def test_each_bearer_has_a_folder_and_what_is_valid_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "coordinator", "natbox@10.0.0.1", "agent:host1@10.0.0.2"]) == 0
    assert capsys.readouterr().out.count(", made\n") == 3
    assert main([str(tmp_path), "agent:host1@10.0.0.2"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/host1: caas:agent:host1, kept\n"
    ca, one = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("ca/ca.pem", "host1/cert.pem")
    )
    one.verify_directly_issued_by(ca)
    assert (tmp_path / "host1/key.pem").stat().st_mode & 0o777 == 0o600
    names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["host1"]


@pytest.mark.parametrize(
    "wrong", ["user", "agent", "agent:", "natbox:1", "agent:../up", "coordinator@here", "agent:ca"]
)
def test_what_is_no_bearer_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), wrong])
    assert caught.value.code == 2
    assert not list(tmp_path.iterdir())
