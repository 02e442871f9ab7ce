"""The last desired state of each cluster on this host: STATE/desired/CLUSTER.json."""

from __future__ import annotations

from pathlib import Path

from proto import types_pb2 as pb
from proto.disk import Saved
from proto.model import ClusterHost
from proto.wire import cluster_host_from_wire, cluster_host_to_wire


class SavedStates(Saved[ClusterHost]):
    """The saved desired states below *folder*, which is made if absent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, pb.ClusterHost, cluster_host_to_wire, cluster_host_from_wire)
