"""What a failed call means: a peer that is gone in the middle of it, and one that says what is wrong."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from proto.errors import CaasError, Code
from proto.transport.failures import METADATA_KEY, error_from_rpc, error_to_wire


def failure(code: grpc.StatusCode, detail: CaasError | None = None) -> grpc.aio.AioRpcError:
    trailing = ((METADATA_KEY, error_to_wire(detail).SerializeToString()),) if detail else ()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), "words")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, Code.UNREACHABLE),
        (grpc.StatusCode.CANCELLED, Code.UNREACHABLE),
        (grpc.StatusCode.INTERNAL, Code.UNREACHABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Code.TIMEOUT),
        (grpc.StatusCode.UNIMPLEMENTED, Code.UNSUPPORTED),
        (grpc.StatusCode.UNKNOWN, Code.FAILED),
    ],
)
def test_a_status_without_a_detail_is_the_transport_s(status: grpc.StatusCode, code: Code) -> None:
    found = error_from_rpc(failure(status), "host1")
    assert (found.code, found.message.startswith("host1: ")) == (code, True)


def test_what_the_peer_says_of_a_fault_of_its_own_is_no_loss_of_it() -> None:
    told = CaasError(Code.UNVERIFIED, "vlan eth1.100: missing", hint="see its log")
    found = error_from_rpc(failure(grpc.StatusCode.INTERNAL, told), "host1")
    assert found == CaasError(Code.UNVERIFIED, "host1: vlan eth1.100: missing", hint="see its log")
