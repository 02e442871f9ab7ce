"""The coordinator as the command line calls it. Every failure is a CaasError.

Synchronous gRPC: a command makes one call, and an interrupt must end it where it stands.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import grpc

from coordinator.lab.places import DEFAULT_SOCKET, Places
from proto import coordinator_pb2 as pb
from proto import coordinator_pb2_grpc
from proto.errors import CaasError, Code, invalid
from proto.transport.client import OPTIONS
from proto.transport.failures import METADATA_KEY, error_from_rpc
from proto.transport.tls import TlsFiles

PEER = "coordinator"
#: The DNS name in the coordinator's certificate.
SERVER_NAME = "coordinator"
LOOK = 120.0
#: A bring-up of 64 computes takes minutes; a step that hangs has a deadline of its own.
WORK = 4 * 3600.0


class Coordinator(Protocol):
    """What commands ask of the coordinator. Documents are those of the command line's contract."""

    def check(self, request: pb.FileRequest) -> dict[str, Any]: ...
    def plan(self, request: pb.UpRequest) -> dict[str, Any]: ...
    def up(self, request: pb.UpRequest) -> Iterator[pb.Event]: ...
    def status(self, name: str) -> dict[str, Any]: ...
    def doctor(self, name: str) -> dict[str, Any]: ...
    def verify(self, name: str) -> Iterator[pb.Event]: ...
    def test(self, name: str) -> Iterator[pb.Event]: ...
    def down(self, request: pb.NameRequest) -> Iterator[pb.Event]: ...
    def logs(self, name: str) -> dict[str, Any]: ...
    def credentials(self, request: pb.CredentialsRequest) -> dict[str, Any]: ...
    def natbox_status(self, natbox: str) -> dict[str, Any]: ...
    def hand_over(self, request: pb.HandOverRequest) -> Iterator[pb.Event]: ...
    def explain(self, request: pb.ExplainRequest) -> dict[str, Any]: ...
    def exec(self, inputs: Iterator[pb.CoordinatorExecInput]) -> Iterator[pb.CoordinatorExecOutput]: ...


def find_address(environ: Mapping[str, str], *, coordinator: str = "", lab: str = "") -> str:
    """Where the coordinator is: what the call says, else what *environ* says, else the default place.

    In each, the coordinator's address goes before a lab's name. INVALID where the lab's name is none.
    """
    if coordinator or lab:
        return coordinator or str(Places(lab).socket)
    if address := environ.get("CAAS_COORDINATOR"):
        return address
    return str(Places(environ["CAAS_LAB"]).socket) if environ.get("CAAS_LAB") else str(DEFAULT_SOCKET)


class GrpcCoordinator:
    """The Coordinator service at *address* (`/PATH`, `unix:PATH`, or `HOST:PORT` with the certificates of $CAAS_TLS).

    Connects when first asked. Use it as a context manager.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> GrpcCoordinator:
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel is not None:
            self._channel.close()

    def _stub(self) -> Any:
        if self._channel is None:
            self._channel = _open_channel(self._address)
        return coordinator_pb2_grpc.CoordinatorStub(self._channel)

    def check(self, request: pb.FileRequest) -> dict[str, Any]:
        return self._document(self._stub().Check, request)

    def plan(self, request: pb.UpRequest) -> dict[str, Any]:
        return self._document(self._stub().Plan, request)

    def up(self, request: pb.UpRequest) -> Iterator[pb.Event]:
        return self._stream(self._stub().Up, request)

    def status(self, name: str) -> dict[str, Any]:
        return self._document(self._stub().Status, pb.NameRequest(name=name))

    def doctor(self, name: str) -> dict[str, Any]:
        return self._document(self._stub().Doctor, pb.NameRequest(name=name))

    def verify(self, name: str) -> Iterator[pb.Event]:
        return self._stream(self._stub().Verify, pb.NameRequest(name=name))

    def test(self, name: str) -> Iterator[pb.Event]:
        return self._stream(self._stub().Test, pb.NameRequest(name=name))

    def down(self, request: pb.NameRequest) -> Iterator[pb.Event]:
        return self._stream(self._stub().Down, request)

    def logs(self, name: str) -> dict[str, Any]:
        return self._document(self._stub().Logs, pb.NameRequest(name=name))

    def credentials(self, request: pb.CredentialsRequest) -> dict[str, Any]:
        return self._document(self._stub().Credentials, request)

    def hand_over(self, request: pb.HandOverRequest) -> Iterator[pb.Event]:
        return self._stream(self._stub().HandOver, request)

    def natbox_status(self, natbox: str) -> dict[str, Any]:
        return self._document(self._stub().NatBoxStatus, pb.NatBoxStatusRequest(natbox=natbox))

    def explain(self, request: pb.ExplainRequest) -> dict[str, Any]:
        return self._document(self._stub().Explain, request)

    def exec(self, inputs: Iterator[pb.CoordinatorExecInput]) -> Iterator[pb.CoordinatorExecOutput]:
        return self._stream(self._stub().Exec, inputs)

    def _document(self, method: Any, request: object) -> dict[str, Any]:
        with self._failures():
            return cast("dict[str, Any]", json.loads(method(request, timeout=LOOK).json))

    def _stream(self, method: Any, request: object) -> Iterator[Any]:
        with self._failures():
            items = method(request, timeout=WORK)
            try:
                yield from items
            finally:
                items.cancel()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as failure:
            # Of grpc's two kinds of failed call this module's has the same methods as the asynchronous one.
            failed = cast("Any", failure)
            error = error_from_rpc(failed, PEER)
            told = METADATA_KEY in dict(failed.trailing_metadata() or ())
            if error.code is Code.UNREACHABLE and not told:
                message = f"the coordinator at {self._address} does not answer"
                raise CaasError(error.code, message, hint="is caas-coordinator running? caas lab status") from failure
            # It was asked here: who it was about is in the message already.
            raise CaasError(error.code, error.message.removeprefix(f"{PEER}: "), hint=error.hint) from failure


def _open_channel(address: str) -> grpc.Channel:
    if address.startswith(("unix:", "/")):
        path = address.removeprefix("unix:")
        if not os.path.exists(path):
            raise CaasError(
                Code.UNREACHABLE,
                f"no coordinator: {path} is not there",
                hint="caas lab up starts one here; --coordinator, --lab or $CAAS_COORDINATOR say where another is",
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise CaasError(
                Code.UNREACHABLE,
                f"the coordinator's socket {path} is closed to this user",
                hint="its mode says who may use it: become root, or its owner",
            )
        return grpc.insecure_channel(f"unix:{path}", options=(*OPTIONS, ("grpc.default_authority", "localhost")))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise invalid(f"coordinator {address!r}: neither a path nor HOST:PORT", hint="as unix:/run/caas/…, or a path")
    folder = os.environ.get("CAAS_TLS", "")
    if not folder:
        raise invalid(f"coordinator {address}: over TCP a certificate is needed", hint="set CAAS_TLS to its folder")
    options = (*OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME))
    return grpc.secure_channel(address, TlsFiles.load(Path(folder)).channel_credentials(), options=options)
