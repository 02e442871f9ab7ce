"""One change of several hosts, as the coordinator makes it: `confirm_client TLS WITHIN` over real connections.

Standard input: a line of JSON, {ADDRESS: desired state}; then a line before anybody is confirmed. Standard output, a
line each: {"applied": HOST} or {"failed": HOST, "message"}, then {"errors": [{"code", "message"}]}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from coordinator.confirming import Changes
from coordinator.fleet import Fleet
from proto import types_pb2
from proto.errors import CaasError
from proto.model import ClusterHost
from proto.transport.tls import TlsFiles
from proto.wire import cluster_host_from_wire


def tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def apply(fleet: Fleet, changes: Changes, address: str, desired: ClusterHost) -> None:
    try:
        await changes.apply(fleet.agent(desired.host, address), desired)
        tell({"applied": desired.host})
    except CaasError as exc:
        tell({"failed": desired.host, "message": exc.message})


async def main() -> None:
    fleet = Fleet(TlsFiles.load(Path(sys.argv[1])))
    wanted = {
        address: cluster_host_from_wire(json_format.ParseDict(state, types_pb2.ClusterHost()))
        for address, state in json.loads(sys.stdin.readline()).items()
    }
    changes = Changes(next(iter(wanted.values())).cluster, float(sys.argv[2]))
    await asyncio.gather(*(apply(fleet, changes, address, desired) for address, desired in wanted.items()))
    await asyncio.to_thread(sys.stdin.readline)
    errors = await changes.confirm()
    await changes.close()
    tell({"errors": [{"code": error.code.value, "message": error.message} for error in errors]})
    await fleet.close()


if __name__ == "__main__":
    asyncio.run(main())
