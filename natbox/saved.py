"""What outlives the process: each cluster's last table (STATE/desired/CLUSTER.json) and the values that settings had
before us (STATE/previous.json). Written whole, fsynced and renamed.
"""

from __future__ import annotations

import json
from pathlib import Path

from proto import types_pb2 as pb
from proto.disk import Saved, remove, write_whole
from proto.errors import CaasError, Code
from proto.model import GatewayTable
from proto.wire import gateway_table_from_wire, gateway_table_to_wire


class SavedTables(Saved[GatewayTable]):
    """The saved tables below *folder*, which is made if absent."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, pb.GatewayTable, gateway_table_to_wire, gateway_table_from_wire)


class PreviousValues:
    """What settings were before we changed them, by name; implements agent.kernel.natbox_path.Memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._values: dict[str, str] = {}
        if path.exists():
            try:
                self._values = {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError) as exc:
                raise CaasError(Code.FAILED, f"{path}: not NATBox's: {exc}", hint="move it away") from exc

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def put(self, name: str, value: str) -> None:
        self._values[name] = value
        write_whole(self._path, json.dumps(self._values, indent=1))

    def forget(self, name: str) -> None:
        if self._values.pop(name, None) is None:
            return
        if self._values:
            write_whole(self._path, json.dumps(self._values, indent=1))
        else:
            remove(self._path)
