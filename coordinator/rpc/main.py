"""The process `caas-coordinator`: an ordinary user's; it holds the journal and the channels to agents and NATBox."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from coordinator.config import find_settings
from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.natbox_pair_client import PairedFleet
from coordinator.rpc.service import CoordinatorService
from proto import coordinator_pb2_grpc
from proto.transport.daemon import add_common_arguments, end_on_signal, run_daemon
from proto.transport.notify import serving
from proto.transport.server import Server
from proto.transport.tls import TlsFiles

log = logging.getLogger("caas.coordinator")
GRACE = 3.0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="caas-coordinator",
        description="The coordinator: takes cluster files, tells agents and NATBox what is wanted, brings up nova.",
        epilog="SIGTERM ends it; what is under way is interrupted and goes on with the next `caas up`.",
    )
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH", help="unix socket for the command line")
    parser.add_argument("--socket-mode", default="600", metavar="MODE", help="its mode, octal (default: 600)")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="serve on TCP as well (mTLS, caas:user certificates)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="agents, localhost, distributions (default: /etc/caas/config.yaml where it is there)",
    )
    add_common_arguments(parser, state="the journal")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 1 it could not run, 2 the command line is wrong."""
    return run_daemon(parse(sys.argv[1:] if argv is None else argv), lambda options: asyncio.run(_serve(options)))


async def _serve(options: argparse.Namespace) -> None:
    settings = find_settings(options.config)
    tls = TlsFiles.load(options.tls)
    journal = Journal(options.state / "journal.db")
    fleet = PairedFleet(tls, settings.natbox) if settings.natbox else Fleet(tls)
    local = Server(allowed=None)
    options.socket.unlink(missing_ok=True)
    # Nobody may connect between bind and chmod.
    os.umask(0o177)
    local.listen_unix(str(options.socket))
    servers = [local]
    if options.listen:
        remote = Server(allowed=frozenset({"caas:user"}))
        remote.listen_tcp(options.listen, tls)
        servers.append(remote)
    service = CoordinatorService(journal, fleet, settings)
    ended = end_on_signal()
    for server in servers:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server.grpc)
        await server.start()
    options.socket.chmod(int(options.socket_mode, 8))
    log.info("serves on %s%s", options.socket, f" and {options.listen}" if options.listen else "")
    service.start()
    async with serving():
        await ended.wait()
    await service.stop()
    for server in servers:
        await server.stop(grace=GRACE)
    await fleet.close()
    journal.close()
    options.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
