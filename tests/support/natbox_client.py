"""A client of NATBox for tests, as a process that runs inside a namespace.

python -m tests.support.natbox_client ADDRESS:PORT TLSDIR METHOD < request.json     one reply (JSON) per line
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from google.protobuf import json_format

from proto import natbox_pb2 as pb
from proto import natbox_pb2_grpc
from proto.errors import CaasError
from proto.transport.client import open_channel
from proto.transport.failures import call, stream
from proto.transport.tls import TlsFiles

REQUESTS = {
    "Probe": pb.NatBoxProbeRequest,
    "Observe": pb.NatBoxObserveRequest,
    "Apply": pb.NatBoxApplyRequest,
    "Counters": pb.NatBoxCountersRequest,
    "Explain": pb.NatBoxExplainRequest,
    "Destroy": pb.NatBoxDestroyRequest,
    "Standing": pb.NatBoxStandingRequest,
}


async def ask(address: str, tls: Path, method: str, text: str) -> None:
    request = json_format.Parse(text, REQUESTS[method]())
    async with open_channel(address, TlsFiles.load(tls), server_name="natbox") as channel:
        rpc = getattr(natbox_pb2_grpc.NatBoxStub(channel), method)
        if method in ("Apply", "Destroy"):
            async for event in stream(rpc(request, timeout=60, wait_for_ready=True), "natbox"):
                print(json_format.MessageToJson(event, indent=None), flush=True)
        else:
            reply = await call(rpc(request, timeout=60, wait_for_ready=True), "natbox")
            print(json_format.MessageToJson(reply, indent=None), flush=True)


def main() -> int:
    try:
        asyncio.run(ask(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.stdin.read()))
    except CaasError as exc:
        print(json.dumps({"error": exc.code.value, "message": exc.message, "hint": exc.hint}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
