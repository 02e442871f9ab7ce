"""The last desired state of each cluster on this host, as files: STATE/desired/CLUSTER.json.

Written whole, fsynced and renamed, so that a reader or a power loss sees the old or the new one.
"""

from __future__ import annotations

import os
from pathlib import Path

from google.protobuf import json_format

from proto import types_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import ClusterHost
from proto.wire import cluster_host_from_wire, cluster_host_to_wire


class SavedStates:
    """The saved desired states below *folder*, which is made if absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> dict[str, ClusterHost]:
        """Every saved state by cluster. FAILED names a file that cannot be read: it is never skipped."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                message = json_format.Parse(path.read_text(), pb.ClusterHost())
                desired = cluster_host_from_wire(message)
            except (json_format.ParseError, CaasError, UnicodeDecodeError) as exc:
                raise CaasError(
                    Code.FAILED,
                    f"{path}: not a saved state: {exc}",
                    hint="move it away and run `caas up` of that cluster again",
                ) from exc
            found[desired.cluster] = desired
        return found

    def save(self, desired: ClusterHost) -> None:
        """Replace what is saved for that cluster."""
        text = json_format.MessageToJson(cluster_host_to_wire(desired), indent=1)
        temporary = self._folder / f".{desired.cluster}.tmp"
        with open(temporary, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._folder / f"{desired.cluster}.json")
        self._sync()

    def forget(self, cluster: str) -> None:
        """Remove what is saved for *cluster*; nothing saved is success."""
        (self._folder / f"{cluster}.json").unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
