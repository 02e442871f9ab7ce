"""A CaasError as a gRPC status, and back. The error itself travels in trailing metadata."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from proto import types_pb2 as pb
from proto.errors import CaasError, Code
from proto.transport.client import BACKOFF

log = logging.getLogger(__name__)
METADATA_KEY = "caas-error-bin"
MESSAGE_MAX = 4096  # trailing metadata has a limit of 8 KiB by default: long messages are cut, not lost as a whole
#: Seconds: longer than a channel can go on failing by itself.
PATIENCE = 1.2 * BACKOFF + 0.1
PAUSE = 0.1
T = TypeVar("T")

STATUS: dict[Code, grpc.StatusCode] = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Code.NOT_OWNED: grpc.StatusCode.PERMISSION_DENIED,
    Code.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.NO_ROOM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Code.BUSY: grpc.StatusCode.ABORTED,
    Code.UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Code.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.UNVERIFIED: grpc.StatusCode.INTERNAL,
    Code.FAILED: grpc.StatusCode.INTERNAL,
}


def _shorten(text: str) -> str:
    data = text.encode()
    if len(data) <= MESSAGE_MAX:
        return text
    return data[: MESSAGE_MAX - 20].decode(errors="ignore") + " … (cut)"


def error_to_wire(error: CaasError) -> pb.ErrorDetail:
    """*error* as a message."""
    return pb.ErrorDetail(code=error.code.value, message=_shorten(error.message), hint=_shorten(error.hint))


def error_from_wire(detail: pb.ErrorDetail) -> CaasError:
    """The error in *detail*; FAILED where its code is one that this side does not know."""
    try:
        code = Code(detail.code)
    except ValueError:
        code = Code.FAILED
    return CaasError(code, detail.message, hint=detail.hint)


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: CaasError) -> None:
    """End the call with *error*; never returns normally."""
    detail = error_to_wire(error)
    await context.abort(
        STATUS[error.code],
        _shorten(error.message),
        trailing_metadata=((METADATA_KEY, detail.SerializeToString()),),
    )


def error_from_rpc(failure: grpc.aio.AioRpcError, peer: str) -> CaasError:
    """What a failed call to *peer* (a host's name, "natbox"…) means."""
    for key, value in failure.trailing_metadata() or ():
        if key == METADATA_KEY and isinstance(value, bytes):
            try:
                return error_from_wire(pb.ErrorDetail.FromString(value)).about(peer)
            except DecodeError:
                log.warning("%s: an error detail that cannot be read: %r", peer, value)
    text = failure.details() or failure.code().name
    match failure.code():
        # A server that ends cancels what is under way; where this side does, grpc raises CancelledError. Our servers'
        # INTERNAL has a detail: without one a write found the connection gone (grpc/grpc issue 36066).
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.INTERNAL:
            return CaasError(
                Code.UNREACHABLE, f"{peer}: {text}", hint=f"is {peer} up, its caas process running, its address right?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return CaasError(Code.TIMEOUT, f"{peer}: no answer within the deadline", hint="try again; see its log")
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return CaasError(Code.INVALID, f"{peer}: {text}", hint="the certificate is not one it serves")
        case grpc.StatusCode.UNIMPLEMENTED:
            return CaasError(Code.UNSUPPORTED, f"{peer}: {text}", hint="are both sides of the same version?")
    return CaasError(Code.FAILED, f"{peer}: {failure.code().name}: {text}")


async def call(awaitable: Awaitable[T], peer: str) -> T:
    """Await a unary call; a failure is raised as CaasError about *peer*."""
    try:
        return await awaitable
    except grpc.aio.AioRpcError as failure:
        raise error_from_rpc(failure, peer) from failure


async def look(ask: Callable[[], Awaitable[T]], peer: str) -> T:
    """As `call`, of what *ask* begins and what changes nothing: begun again where *peer* could not be reached, for
    PATIENCE seconds.

    After a restart of *peer* the first call may go out on the connection to the one before ("Internal error from Core",
    as gRPC says it then), or fail with what the last try to connect had found, though *peer* serves again.
    """
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await call(ask(), peer)
        except CaasError as failure:
            if failure.code is not Code.UNREACHABLE or asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(PAUSE)


async def stream(items: AsyncIterator[T] | Any, peer: str) -> AsyncIterator[T]:
    """Iterate a response stream; a failure is raised as CaasError about *peer*."""
    try:
        async for item in items:
            yield item
    except grpc.aio.AioRpcError as failure:
        raise error_from_rpc(failure, peer) from failure
