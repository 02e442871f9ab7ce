"""What outlives the process: each cluster's last table (STATE/desired/CLUSTER.json) and the values that settings had
before us (STATE/previous.json). Written whole, fsynced and renamed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from google.protobuf import json_format

from proto import types_pb2 as pb
from proto.errors import CaasError, Code
from proto.model import GatewayTable
from proto.wire import gateway_table_from_wire, gateway_table_to_wire


class SavedTables:
    """The saved tables below *folder*, which is made if absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> dict[str, GatewayTable]:
        """Every saved table by cluster. FAILED names a file that cannot be read: it is never skipped."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                table = gateway_table_from_wire(json_format.Parse(path.read_text(), pb.GatewayTable()))
            except (json_format.ParseError, CaasError, UnicodeDecodeError) as exc:
                raise CaasError(
                    Code.FAILED,
                    f"{path}: not a saved table: {exc}",
                    hint="move it away and run `caas up` of that cluster again",
                ) from exc
            found[table.cluster] = table
        return found

    def save(self, table: GatewayTable) -> None:
        """Replace what is saved for that cluster."""
        text = json_format.MessageToJson(gateway_table_to_wire(table), indent=1)
        _write(self._folder / f"{table.cluster}.json", text)

    def forget(self, cluster: str) -> None:
        """Remove what is saved for *cluster*; nothing saved is success."""
        (self._folder / f"{cluster}.json").unlink(missing_ok=True)
        _sync(self._folder)


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
        _write(self._path, json.dumps(self._values, indent=1))

    def forget(self, name: str) -> None:
        if self._values.pop(name, None) is None:
            return
        if self._values:
            _write(self._path, json.dumps(self._values, indent=1))
        else:
            self._path.unlink(missing_ok=True)
            _sync(self._path.parent)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
