"""The process `caas-natbox`. Packets do not need it: they flow while it is down, and it adopts what it finds."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable

from agent.kernel.natbox_chains import Listen
from agent.kernel.natbox_door import NatboxDoor
from agent.kernel.natbox_handover import HandOverDoor
from natbox.alarms import AlarmLog
from natbox.gatekeeper import Gatekeeper
from natbox.handover import TICK_SECONDS, HandOver
from natbox.leftovers import Leftovers
from natbox.metrics import serve_metrics
from natbox.saved import PreviousValues, SavedTables
from natbox.service import NatBoxService
from natbox.standing import SavedStanding
from proto import natbox_pb2_grpc
from proto.errors import CaasError, invalid
from proto.names import check_ifname
from proto.transport.daemon import add_common_arguments, end_on_signal, run_daemon
from proto.transport.notify import serving
from proto.transport.server import Server
from proto.transport.tls import COORDINATOR, TlsFiles

log = logging.getLogger("caas.natbox")
GRACE = 5.0
MEND_SECONDS = 10.0
#: Looking at every one of 4,094 VLANs takes a quarter of a second.
MEND_ALL_SECONDS = 60.0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="caas-natbox",
        description="The gateway of all clusters: strips and appends VLAN IDs, routes and translates, in the kernel.",
        epilog="SIGTERM ends it after the calls under way; the datapath stays and goes on.",
    )
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="where to serve (mTLS)")
    add_common_arguments(parser, state="saved tables and previous settings")
    parser.add_argument("--trunk", required=True, metavar="LINK", help="carries the clusters' tagged frames, no others")
    parser.add_argument("--uplink", required=True, metavar="LINK", help="leads to the world; has NATBox's address")
    parser.add_argument("--metrics", metavar="ADDRESS:PORT", help="where Prometheus may ask, unencrypted; default: not")
    return parser.parse_args(argv)


def parse_metrics(text: str) -> Listen:
    """ADDRESS:PORT, the address of IPv4."""
    found = parse_listen(text, option="--metrics")
    if found is None:
        raise invalid(f"--metrics {text}: the address must be one of IPv4")
    return found


def parse_listen(text: str, *, option: str = "--listen") -> Listen | None:
    """ADDRESS:PORT. None where the address is none of IPv4: nothing has to be opened for it on the uplink."""
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise invalid(f"{option} {text}: ADDRESS:PORT is needed, the port within 1..65535")
    try:
        return Listen(address=ipaddress.IPv4Address(address), port=int(port))
    except ValueError:
        return None


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 1 it could not run, 2 the command line is wrong."""
    return run_daemon(parse(sys.argv[1:] if argv is None else argv), _run)


def _run(options: argparse.Namespace) -> None:
    if options.trunk == options.uplink:
        raise invalid(f"--trunk and --uplink are both {options.trunk}: NATBox has its trunk for itself")
    asyncio.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    listen = parse_listen(options.listen)
    metrics = parse_metrics(options.metrics) if options.metrics else None
    server = Server(allowed=frozenset({COORDINATOR}))
    server.listen_tcp(options.listen, TlsFiles.load(options.tls))
    ended = end_on_signal()
    door = NatboxDoor(
        trunk=check_ifname(options.trunk),
        uplink=check_ifname(options.uplink),
        memory=PreviousValues(options.state / "previous.json"),
        listen=listen,
    )
    gatekeeper = Gatekeeper(door, SavedTables(options.state / "desired"), Leftovers(options.state))
    # A file of its own: the two are written by different threads.
    memory = PreviousValues(options.state / "previous-uplink.json")
    machine = HandOverDoor(door, memory=memory, own=listen.address if listen else None)
    hand_over = HandOver(machine, SavedStanding(options.state / "role.json"), on_open=gatekeeper.mend)
    await asyncio.to_thread(hand_over.resume)
    await asyncio.to_thread(gatekeeper.restore)
    natbox_pb2_grpc.add_NatBoxServicer_to_server(NatBoxService(gatekeeper, hand_over), server.grpc)
    if metrics is not None:
        serve_metrics(gatekeeper, address=str(metrics.address), port=metrics.port)
        log.info("metrics on http://%s:%d/metrics", metrics.address, metrics.port)
    await server.start()
    log.info("serves on %s: trunk %s, uplink %s", options.listen, options.trunk, options.uplink)
    alarms = AlarmLog(gatekeeper.list_alarms)
    async with serving():
        await asyncio.gather(
            _every(MEND_SECONDS, ended, gatekeeper.mend, "the datapath was not mended"),
            _every(MEND_ALL_SECONDS, ended, gatekeeper.mend_all, "the VLANs were not mended"),
            _every(MEND_SECONDS, ended, alarms.tell, "limits were not looked at"),
            _every(TICK_SECONDS, ended, hand_over.tick, "the other NATBox was not told"),
        )
    log.info("ends; the datapath stays")
    await server.stop(grace=GRACE)


async def _every(seconds: float, ended: asyncio.Event, work: Callable[[], None], failure: str) -> None:
    """Do *work* in a thread every *seconds* until *ended*. What fails is logged: the next try may do better."""
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), seconds)
        except TimeoutError:
            try:
                await asyncio.to_thread(work)
            except CaasError as exc:
                log.error("%s: %s (%s)", failure, exc, exc.hint)
            except Exception:
                log.exception("%s", failure)


if __name__ == "__main__":
    sys.exit(main())
