"""What an agent keeps of each cluster: the last desired state, STATE/desired/CLUSTER.json, and beside it, below
unconfirmed/, a change that waits to be confirmed.
"""

from __future__ import annotations

from pathlib import Path

from agent.confirming import Kept, Unconfirmed
from proto import agent_pb2, types_pb2
from proto.disk import Saved
from proto.model import ClusterHost
from proto.wire import cluster_host_from_wire, cluster_host_to_wire


class SavedStates(Saved[ClusterHost]):
    """The saved desired states below *folder*, which is made if absent."""

    unconfirmed: Kept

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, types_pb2.ClusterHost, cluster_host_to_wire, cluster_host_from_wire)
        self.unconfirmed = Saved(
            folder / "unconfirmed", agent_pb2.Unconfirmed, unconfirmed_to_wire, unconfirmed_from_wire
        )


def unconfirmed_to_wire(change: Unconfirmed) -> agent_pb2.Unconfirmed:
    return agent_pb2.Unconfirmed(
        cluster=change.cluster,
        generation=change.generation,
        within=change.within,
        before=cluster_host_to_wire(change.before) if change.before else None,
        boot=change.boot,
        boot_seconds=change.boot_seconds,
        wall_seconds=change.wall_seconds,
    )


def unconfirmed_from_wire(message: agent_pb2.Unconfirmed) -> Unconfirmed:
    return Unconfirmed(
        cluster=message.cluster,
        generation=message.generation,
        within=message.within,
        before=cluster_host_from_wire(message.before) if message.HasField("before") else None,
        boot=message.boot,
        boot_seconds=message.boot_seconds,
        wall_seconds=message.wall_seconds,
    )
