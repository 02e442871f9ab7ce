"""The process `caas-coordinator`: an ordinary user's; it holds the journal and the channels to agents and NATBox."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.rpc.service import CoordinatorService
from proto import coordinator_pb2_grpc
from proto.errors import CaasError
from proto.transport.server import Server
from proto.transport.tls import TlsFiles

log = logging.getLogger("caas.coordinator")
GRACE = 10.0


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
    parser.add_argument("--tls", required=True, type=Path, metavar="DIR", help="ca.pem, cert.pem and key.pem")
    parser.add_argument("--state", required=True, type=Path, metavar="DIR", help="the journal")
    parser.add_argument("--verbose", action="store_true", help="log every call")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 1 it could not run, 2 the command line is wrong."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(_serve(options))
    except CaasError as exc:
        print(f"error: {exc}", file=sys.stderr)
        if exc.hint:
            print(f"hint: {exc.hint}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    tls = TlsFiles.load(options.tls)
    journal = Journal(options.state / "journal.db")
    fleet = Fleet(tls)
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
    service = CoordinatorService(journal, fleet)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    for server in servers:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server.grpc)
        await server.start()
    options.socket.chmod(int(options.socket_mode, 8))
    log.info("serves on %s%s", options.socket, f" and {options.listen}" if options.listen else "")
    await ended.wait()
    for server in servers:
        await server.stop(grace=GRACE)
    await fleet.close()
    journal.close()
    options.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
