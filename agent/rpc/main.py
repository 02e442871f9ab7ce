"""The process `caas-agent`: doors first, gRPC last, since liblxc must never share a process with gRPC threads."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proto.transport.daemon import add_common_arguments, end_on_signal, run_daemon

if TYPE_CHECKING:
    from agent.containers.exec import ExecDoor
    from agent.host import Host
    from agent.mending import Mender
    from agent.recent import RecentLines

log = logging.getLogger("caas.agent")
GRACE = 5.0
RESTORE_SECONDS = 5.0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="caas-agent",
        description="The agent of one physical host: owns that host's caas links, routes, NAT rules and containers.",
        epilog="SIGTERM ends it after the calls under way; links and containers stay.",
    )
    parser.add_argument("--name", required=True, help="this host's name, as cluster files call it")
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="where to serve (mTLS)")
    add_common_arguments(parser, state="containers and saved states")
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="sockets and locks; may be on tmpfs")
    parser.add_argument("--images", type=Path, default=Path("/var/lib/caas/images"), metavar="DIR")
    parser.add_argument(
        "--authorized-keys",
        type=Path,
        default=Path("/root/.ssh/authorized_keys"),
        metavar="FILE",
        help="whose SSH keys are let in as root by containers that say ssh (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=Path,
        metavar="SOCKET",
        help="of caas-containers, which then starts what makes and enters containers (default: the agent itself)",
    )
    for kind in ("vlan", "ipip"):
        parser.add_argument(
            f"--{kind}",
            choices=("auto", "kernel", "bpf"),
            default="auto",
            help=f"realisation of {kind} devices (auto: probed)",
        )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 1 it could not run, 2 the command line is wrong."""
    return run_daemon(parse(sys.argv[1:] if argv is None else argv), _run)


def _run(options: argparse.Namespace) -> None:
    from agent.containers.door import LxcDoor
    from agent.containers.exec import ExecDoor
    from agent.containers.programs import Starter, spawn_interpreter
    from agent.host import Host
    from agent.kernel.door import NetlinkDoor
    from agent.kernel.ksm import Merging
    from agent.kernel.ports import Ports
    from agent.kernel.watch import Watcher
    from agent.leftovers import Leftovers
    from agent.mending import Mender
    from agent.recent import RecentLines
    from agent.saved import SavedStates

    recent = RecentLines()
    logging.getLogger().addHandler(recent)
    options.run.mkdir(parents=True, exist_ok=True)
    spawn = Starter(options.workers) if options.workers else spawn_interpreter
    keys = options.authorized_keys.absolute()
    # The workers are started here, before anything of gRPC is loaded.
    with (
        LxcDoor(options.state, images=options.images, authorized_keys=keys, spawn=spawn) as containers,
        contextlib.closing(ExecDoor(options.state, spawn=spawn)) as commands,
        NetlinkDoor(vlan=options.vlan, ipip=options.ipip) as kernel,
        contextlib.closing(Watcher()) as watcher,
        contextlib.closing(Ports()) as ports,
    ):
        saved = SavedStates(options.state / "desired")
        leftovers = Leftovers(options.state)
        host = Host(options.name, kernel, containers, saved, Merging(options.state), leftovers=leftovers)
        asyncio.run(_serve(options, host, commands, Mender(host, watcher, ports), recent))


async def _serve(
    options: argparse.Namespace, host: Host, commands: ExecDoor, mender: Mender, recent: RecentLines
) -> None:
    from agent.kernel.doctor import Doctor
    from agent.kernel.look import KernelLook
    from agent.rpc.service import NodeAgent
    from proto import agent_pb2_grpc
    from proto.transport.notify import serving
    from proto.transport.server import Server
    from proto.transport.tls import COORDINATOR, TlsFiles

    server = Server(allowed=frozenset({COORDINATOR}))
    server.listen_tcp(options.listen, TlsFiles.load(options.tls))
    ended = end_on_signal()
    behind = await asyncio.to_thread(host.restore)
    service = NodeAgent(host, commands, KernelLook(), Doctor(), recent=recent)
    agent_pb2_grpc.add_NodeAgentServicer_to_server(service, server.grpc)
    await server.start()
    mender.start()
    log.info("%s serves on %s", options.name, options.listen)
    retrying = asyncio.create_task(_restore_again(host, behind))
    async with serving():
        await ended.wait()
    retrying.cancel()
    log.info("ends; links and containers stay")
    await server.stop(grace=GRACE)
    await asyncio.to_thread(mender.close)


async def _restore_again(host: Host, behind: frozenset[str]) -> None:
    """What could not be restored is tried again: after a boot the trunk may come later than the agent."""
    while behind:
        await asyncio.sleep(RESTORE_SECONDS)
        behind = await asyncio.to_thread(host.restore, behind)


if __name__ == "__main__":
    sys.exit(main())
