"""Ways in: commands in containers, the stock client, and credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from coordinator.config import Network, VlanNetwork
from coordinator.fleet import Fleet
from coordinator.journal import Journal
from coordinator.known import Known
from coordinator.nova import clouds_yaml_text, openrc_text, openstack_argv
from coordinator.nova.urls import INTERNAL, PUBLIC
from proto import agent_pb2
from proto import coordinator_pb2 as pb
from proto.errors import invalid

#: Chunks that wait for a slow reader; then the command waits, too.
OUTPUTS_AHEAD = 16


async def execute(
    fleet: Fleet, journal: Journal, start: pb.CoordinatorExecInput.Start, inputs: AsyncIterator[bytes]
) -> AsyncIterator[pb.CoordinatorExecOutput]:
    """Run a command in a container, or the stock client beside the API; the last output is its status."""
    known = Known.find(fleet, journal, start.name)
    if start.openstack:
        shell, argv = known.api_shell(), openstack_argv(start.argv)
    else:
        if not start.argv:
            raise invalid("exec: a command is needed", hint="caas exec NAME CONTAINER -- COMMAND")
        shell, argv = known.shell(start.container), tuple(start.argv)
    queue: asyncio.Queue[agent_pb2.ExecOutput | None] = asyncio.Queue(OUTPUTS_AHEAD)

    async def work() -> int:
        try:
            agent = known.agent(known.file.containers[shell.container].host)
            return await agent.exec(start.name, shell.container, argv, inputs=inputs, on_output=queue.put)
        finally:
            await queue.put(None)

    task = asyncio.create_task(work())
    try:
        while (output := await queue.get()) is not None:
            yield (
                pb.CoordinatorExecOutput(stdout=output.stdout)
                if output.stdout
                else pb.CoordinatorExecOutput(stderr=output.stderr)
            )
        yield pb.CoordinatorExecOutput(status=await task)
    finally:
        task.cancel()


def credentials(fleet: Fleet, journal: Journal, name: str, form: str, interface: str = INTERNAL) -> dict[str, Any]:
    """Credentials as text, and from where they are of use. *interface*: whose endpoints (nova.urls.INTERFACES).

    INVALID for the public ones where the cluster's file publishes none.
    """
    known = Known.find(fleet, journal, name)
    site = known.site
    reachable = _find_publics(known) if interface == PUBLIC else _find_networks(known)
    match form:
        case "openrc":
            text = openrc_text(site, known.secrets, interface)
        case "clouds.yaml":
            text = clouds_yaml_text(site, known.secrets, interface)
        case _:
            raise invalid(f"credentials: {form!r}: known are openrc and clouds.yaml")
    header = f"# cluster {name}: of use wherever {reachable} can be reached\n"
    return {"cluster": name, "text": header + text, "reachable_from": reachable}


def _find_networks(known: Known) -> str:
    networks = sorted({spec.network for spec in known.file.containers.values()})
    return ", ".join(_describe(known.file.networks[network]) for network in networks)


def _find_publics(known: Known) -> str:
    if not known.publics:
        hint = "add publish: api to its file (docs/cluster-file.md), then caas up FILE"
        raise invalid(f"{known.file.name}: its API is not published", hint=hint)
    return ", ".join(dict.fromkeys(place.partition(":")[0] for place in known.publics.values()))


def _describe(network: Network) -> str:
    if isinstance(network, VlanNetwork):
        return f"{network.subnet} (VLAN {network.vid})"
    ends = (f"{block} (on {host})" for host, block in network.blocks.items())
    return ", ".join((*ends, *(f"{peer} (by its tunnel)" for peer in network.tunnel_to)))
