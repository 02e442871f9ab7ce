"""A server as all our daemons run it: mTLS, one authorisation rule, errors as statuses, standard health."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from proto.errors import CaasError, Code
from proto.transport.failures import abort_with
from proto.transport.tls import TlsFiles

log = logging.getLogger(__name__)
HEALTH_PREFIX = "/grpc.health.v1.Health/"
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)


def identities(context: grpc.aio.ServicerContext[Any, Any]) -> frozenset[str]:
    """The names in the peer's certificate; empty on a unix socket."""
    found = context.auth_context() or {}
    values = [*found.get("x509_subject_alternative_name", ()), *found.get("peer_uri", ())]
    return frozenset(name for value in values if (name := value.decode()).startswith("caas:"))


class Guard(grpc.aio.ServerInterceptor):
    """Lets in who may come, and turns what handlers raise into statuses.

    *allowed* are the certificate names that may call; None lets everybody in (a unix socket guards itself).
    Health may be asked by every bearer of a certificate of the CA.
    """

    def __init__(self, allowed: frozenset[str] | None) -> None:
        self._allowed = allowed

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        details = handler_call_details
        handler = await continuation(details)
        method = details.method or ""
        if handler is None or method.startswith(HEALTH_PREFIX):
            return handler
        if handler.unary_unary:
            return handler._replace(unary_unary=self._unary(handler.unary_unary, method))
        if handler.stream_unary:
            return handler._replace(stream_unary=self._unary(handler.stream_unary, method))
        if handler.unary_stream:
            return handler._replace(unary_stream=self._stream(handler.unary_stream, method))
        if handler.stream_stream:
            return handler._replace(stream_stream=self._stream(handler.stream_stream, method))
        return handler

    def _check_peer(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self._allowed is not None and not self._allowed & identities(context):
            who = ", ".join(sorted(identities(context))) or "nobody it knows"
            raise CaasError(
                Code.NOT_OWNED, f"the certificate is of {who}; only {', '.join(sorted(self._allowed))} may call"
            )

    def _unary(self, inner: Any, method: str) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._check_peer(context)
                return await inner(request, context)
            except CaasError as error:
                log.info("%s: %s: %s", method, error.code.value, error)
                return await abort_with(context, error)
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except Exception as exc:
                log.exception("%s", method)
                return await abort_with(context, _unexpected(exc))

        return guarded

    def _stream(self, inner: Any, method: str) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                self._check_peer(context)
                async for reply in inner(request, context):
                    yield reply
            except CaasError as error:
                log.info("%s: %s: %s", method, error.code.value, error)
                await abort_with(context, error)
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except Exception as exc:
                log.exception("%s", method)
                await abort_with(context, _unexpected(exc))

        return guarded


def _unexpected(exc: Exception) -> CaasError:
    return CaasError(Code.FAILED, f"a fault of ours: {type(exc).__name__}: {exc}", hint="its log has the traceback")


class Server:
    """A gRPC server with health. `add(server)` registers services; `start()` binds; `stop()` drains."""

    def __init__(self, *, allowed: frozenset[str] | None) -> None:
        self.grpc = grpc.aio.server(interceptors=(Guard(allowed),), options=OPTIONS)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    def listen_tcp(self, address: str, tls: TlsFiles) -> None:
        """Listen on HOST:PORT with mTLS; CONFLICT where that is taken or not ours."""
        try:
            port = self.grpc.add_secure_port(address, tls.server_credentials())
        except RuntimeError as exc:
            port = 0
            log.debug("bind %s: %s", address, exc)
        if not port:
            raise CaasError(
                Code.CONFLICT, f"cannot listen on {address}", hint="is it taken, or not an address of this host?"
            )

    def listen_unix(self, path: str) -> None:
        """Listen on a unix socket; whoever may connect is decided by the file modes around it."""
        if not self.grpc.add_insecure_port(f"unix:{path}"):
            raise CaasError(Code.CONFLICT, f"cannot listen on {path}", hint="is its folder there and writable?")

    async def start(self) -> None:
        """Begin to serve, and say so to whoever asks for health."""
        await self.grpc.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, *, grace: float) -> None:
        """Take no new call, give those under way *grace* seconds."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace)
