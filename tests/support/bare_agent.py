"""`caas-agent` as it is, but for its containers, which are in memory: the host's network, gRPC, the watch, and what is
saved are the agent's own. Takes its options.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

from agent.host import Host
from agent.kernel.door import NetlinkDoor
from agent.kernel.ports import Ports
from agent.kernel.watch import Watcher
from agent.mending import Mender
from agent.recent import RecentLines
from agent.rpc.main import _serve, parse
from agent.saved import SavedStates
from tests.support.fakes import FakeContainers


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    options = parse(sys.argv[1:])
    with (
        NetlinkDoor() as kernel,
        contextlib.closing(Watcher()) as watcher,
        contextlib.closing(Ports()) as ports,
    ):
        host = Host(options.name, kernel, FakeContainers(), SavedStates(options.state / "desired"))
        asyncio.run(_serve(options, host, None, Mender(host, watcher, ports), RecentLines()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
