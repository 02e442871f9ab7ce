"""How the command line reaches its coordinator: a unix socket by default, mTLS otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import grpc.aio

from proto.errors import invalid
from proto.transport.client import open_channel, open_unix_channel
from proto.transport.tls import TlsFiles

DEFAULT_SOCKET = "/run/caas/coordinator.sock"
LAB_SOCKET = "/run/caas/{lab}/coordinator.sock"
DEFAULT_LAB = "lab"
SERVER_NAME = "coordinator"


def find_coordinator(environ: Mapping[str, str], *, lab: str = "") -> str:
    """Where the coordinator is: $CAAS_COORDINATOR, else the lab's socket, else the default one."""
    lab = lab or environ.get("CAAS_LAB", "")
    if lab and lab != DEFAULT_LAB:
        return LAB_SOCKET.format(lab=lab)
    return environ.get("CAAS_COORDINATOR", "") or DEFAULT_SOCKET


def connect(address: str, environ: Mapping[str, str] = os.environ) -> grpc.aio.Channel:
    """A channel to *address*: `/PATH`, `unix:PATH`, or `HOST:PORT` with the certificates of $CAAS_TLS."""
    if address.startswith(("unix:", "/")):
        return open_unix_channel(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise invalid(
            f"coordinator {address!r}: neither a path nor HOST:PORT", hint="set CAAS_COORDINATOR, or leave it unset"
        )
    folder = environ.get("CAAS_TLS", "")
    if not folder:
        raise invalid(f"coordinator {address}: over TCP a certificate is needed", hint="set CAAS_TLS to its folder")
    return open_channel(address, TlsFiles.load(Path(folder)), server_name=SERVER_NAME)
