"""Certificates of a process: DIR/ca.pem, DIR/cert.pem, DIR/key.pem.

A certificate names its bearer in a URI (subjectAltName): `caas:coordinator`, `caas:agent:HOST`, `caas:natbox`.
A client also checks that the server it reached is the one it meant, by the DNS name in the server's certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from proto.errors import CaasError, Code

COORDINATOR = "caas:coordinator"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TlsFiles:
    """PEM texts: the CA that both sides trust, this process's certificate and its private key."""

    ca: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def load(cls, folder: Path) -> TlsFiles:
        """Read the three files of *folder*; INVALID names what is missing or unreadable."""
        texts = []
        for name in ("ca.pem", "cert.pem", "key.pem"):
            try:
                texts.append((folder / name).read_bytes())
            except OSError as exc:
                raise CaasError(
                    Code.INVALID,
                    f"{folder / name}: {exc.strerror}",
                    hint="give --tls a folder with ca.pem, cert.pem and key.pem, readable by this process",
                ) from exc
        return cls(ca=texts[0], certificate=texts[1], key=texts[2])

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that asks every client for a certificate of the same CA."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], root_certificates=self.ca, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client that shows its certificate and trusts that CA alone."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
