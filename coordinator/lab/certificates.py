"""The lab's own certificate authority, and a certificate for each of its processes (ECDSA P-256, X.509 v3, RFC 5280).

A certificate's URI names its bearer (docs/architecture.md); it is valid for the host's name and its management
address. What is there and still valid is kept, so that a second `lab up` changes nothing under running processes.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proto.errors import CaasError, Code

CA_FILE, CERT_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"
LIFETIME = datetime.timedelta(days=365)
#: A certificate that ends sooner than this is made anew.
RENEW_BEFORE = datetime.timedelta(days=30)
_CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Who a certificate is for: its URI, host name, address (None: none) and the uid that owns its key."""

    uri: str
    hostname: str
    address: ipaddress.IPv4Address | None
    uid: int = 0


class Authority:
    """The CA of one lab, in the folder *folder* (0700)."""

    def __init__(self, folder: Path, lab: str) -> None:
        self._folder, self._lab = folder, lab
        self._key, self._certificate = self._load() or self._make()

    def issue(self, bearer: Bearer, folder: Path) -> bool:
        """Put ca.pem, cert.pem and key.pem for *bearer* into *folder*; False where valid ones are there."""
        if self._is_valid(bearer, folder):
            return False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(folder, bearer.uid, -1)
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(bearer.uri), x509.DNSName(bearer.hostname)]
        if bearer.address is not None:
            names.append(x509.IPAddress(bearer.address))
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(bearer.uri, self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(usage, critical=False)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # The certificate last: until it is there and matches, the next run begins again.
        write_private(folder / KEY_FILE, _key_pem(key), uid=bearer.uid, mode=0o600)
        write_private(folder / CA_FILE, _pem(self._certificate), uid=bearer.uid, mode=0o644)
        write_private(folder / CERT_FILE, _pem(certificate), uid=bearer.uid, mode=0o644)
        return True

    def _is_valid(self, bearer: Bearer, folder: Path) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate((folder / CERT_FILE).read_bytes())
            key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), password=None)
            same_ca = (folder / CA_FILE).read_bytes() == _pem(self._certificate)
            owner = (folder / KEY_FILE).stat().st_uid
            certificate.verify_directly_issued_by(self._certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        return (
            same_ca
            and owner == bearer.uid
            and certificate.public_key() == key.public_key()
            and names.get_values_for_type(x509.UniformResourceIdentifier) == [bearer.uri]
            and names.get_values_for_type(x509.DNSName) == [bearer.hostname]
            and names.get_values_for_type(x509.IPAddress) == ([bearer.address] if bearer.address else [])
            and _lasts(certificate)
        )

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            key = serialization.load_pem_private_key((self._folder / KEY_FILE).read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((self._folder / CA_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            return None
        return (key, certificate) if _lasts(certificate) else None

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"caas lab {self._lab}")
        certificate = (
            _builder(f"caas lab {self._lab}", subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._folder / KEY_FILE, _key_pem(key), uid=os.geteuid(), mode=0o600)
        write_private(self._folder / CA_FILE, _pem(certificate), uid=os.geteuid(), mode=0o644)
        return key, certificate


def write_private(path: Path, data: bytes, *, uid: int, mode: int) -> None:
    """Write *path* whole or not at all; nobody but *uid* can open it before its mode is what it will be."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            # By descriptor: the folder may be another user's, who could put a link in the place of a name.
            os.fchown(stream.fileno(), uid, -1)
            os.fchmod(stream.fileno(), mode)
        temporary.replace(path)
    except OSError as exc:
        raise CaasError(Code.FAILED, f"{path}: {exc.strerror}") from exc


def _builder(common_name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # X.520 allows 64 characters; nobody reads more: the bearer's name is the URI.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _lasts(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + RENEW_BEFORE


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
