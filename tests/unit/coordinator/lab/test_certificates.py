"""The lab's certificates: who they name, who may read the keys, and that valid ones are kept."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.lab.certificates import Authority, Bearer

AGENT = Bearer(uri="caas:agent:host1", hostname="host1", address=ipaddress.IPv4Address("192.168.2.25"), uid=os.getuid())


def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "lab")


def test_a_certificate_names_its_bearer_host_and_address(tmp_path: Path) -> None:
    assert authority(tmp_path).issue(AGENT, tmp_path / "tls")
    certificate = x509.load_pem_x509_certificate((tmp_path / "tls/cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["caas:agent:host1"]
    assert names.get_values_for_type(x509.DNSName) == ["host1"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.168.2.25")]
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_only_the_owner_may_read_keys(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        authority(tmp_path).issue(AGENT, tmp_path / "tls")
    finally:
        os.umask(old)
    for path in (tmp_path / "tls/key.pem", tmp_path / "ca/key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def handshake(server: Path, client: Path, name: str) -> str:
    """What the client's TLS library says of a handshake in memory; "" where both sides are content."""
    at_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    at_server.load_cert_chain(server / "cert.pem", server / "key.pem")
    at_server.load_verify_locations(server / "ca.pem")
    at_server.verify_mode = ssl.CERT_REQUIRED
    at_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    at_client.load_cert_chain(client / "cert.pem", client / "key.pem")
    at_client.load_verify_locations(client / "ca.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        at_client.wrap_bio(to_client, to_server, server_hostname=name),
        at_server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as exc:
                return str(exc)
    return ""


def test_two_bearers_of_one_ca_trust_each_other_by_name_and_by_address(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    coordinator = Bearer(uri="caas:coordinator", hostname="host9", address=None, uid=os.getuid())
    ca.issue(AGENT, tmp_path / "agent")
    ca.issue(coordinator, tmp_path / "coordinator")
    for name in ("host1", "192.168.2.25"):
        assert handshake(tmp_path / "agent", tmp_path / "coordinator", name) == ""
    assert "host2" in handshake(tmp_path / "agent", tmp_path / "coordinator", "host2")


def test_another_labs_certificates_are_not_trusted(tmp_path: Path) -> None:
    authority(tmp_path).issue(AGENT, tmp_path / "mine")
    Authority(tmp_path / "other-ca", "other").issue(AGENT, tmp_path / "theirs")
    assert "verify failed" in handshake(tmp_path / "theirs", tmp_path / "mine", "host1")


def test_what_is_valid_is_kept_and_what_is_not_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    assert authority(tmp_path).issue(AGENT, folder)
    first = (folder / "cert.pem").read_bytes()
    assert not authority(tmp_path).issue(AGENT, folder)
    assert (folder / "cert.pem").read_bytes() == first

    moved = Bearer(uri=AGENT.uri, hostname="host1", address=ipaddress.IPv4Address("192.168.2.99"), uid=os.getuid())
    assert authority(tmp_path).issue(moved, folder), "another address needs another certificate"

    authority(tmp_path).issue(moved, tmp_path / "another")
    (folder / "key.pem").write_bytes((tmp_path / "another/key.pem").read_bytes())
    assert authority(tmp_path).issue(moved, folder), "the key of another certificate"

    (folder / "key.pem").write_bytes(b"")
    assert authority(tmp_path).issue(moved, folder), "an interrupted run left half a pair"
    (tmp_path / "ca/key.pem").unlink()
    assert authority(tmp_path).issue(moved, folder), "a new CA cannot have signed it"
