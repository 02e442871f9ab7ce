"""What daemons keep on disk: whole files, fsynced and renamed, readable by their owner only.

A reader, or a machine that lost its power, sees the old file or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from proto.errors import CaasError, Code


class OfCluster(Protocol):
    """Something that one cluster has, whole."""

    @property
    def cluster(self) -> str: ...


S = TypeVar("S", bound=OfCluster)
#: No cluster's: those have a suffix.
_REMOVED = "removed"


class Saved(Generic[S]):
    """The last desired state of each cluster, FOLDER/CLUSTER.json, and FOLDER/removed: the generations of removals.

    The folder is made if absent.
    """

    def __init__(
        self, folder: Path, message: type[Message], to_wire: Callable[[S], Message], from_wire: Callable[[Any], S]
    ) -> None:
        self._folder = folder
        self._message, self._to_wire, self._from_wire = message, to_wire, from_wire
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> dict[str, S]:
        """Every saved state by cluster. FAILED names a file that cannot be read: it is never skipped."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                state = self._from_wire(json_format.Parse(path.read_text(), self._message()))
            except (json_format.ParseError, CaasError, UnicodeDecodeError) as exc:
                raise CaasError(
                    Code.FAILED,
                    f"{path}: not a saved state: {exc}",
                    hint="move it away and run `caas up` of that cluster again",
                ) from exc
            found[state.cluster] = state
        return found

    def save(self, state: S) -> None:
        """Replace what is saved for that cluster."""
        text = json_format.MessageToJson(self._to_wire(state), indent=1)
        write_whole(self._folder / f"{state.cluster}.json", text)

    def forget(self, cluster: str) -> None:
        """Remove what is saved for *cluster*; nothing saved is success."""
        remove(self._folder / f"{cluster}.json")

    def load_removed(self) -> dict[str, int]:
        """The generation of each removal, the oldest removal first. FAILED where the file cannot be read."""
        path = self._folder / _REMOVED
        if not path.exists():
            return {}
        try:
            return {str(cluster): int(generation) for cluster, generation in json.loads(path.read_text()).items()}
        except (ValueError, TypeError, AttributeError) as exc:
            raise CaasError(
                Code.FAILED,
                f"{path}: not generations of removals: {exc}",
                hint="move it away: what is still on its way from before a removal is then done",
            ) from exc

    def save_removed(self, removed: Mapping[str, int]) -> None:
        """Replace the generations of removals."""
        write_whole(self._folder / _REMOVED, json.dumps(removed, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Replace *path* by a file with *text*, mode 0600."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def remove(path: Path) -> None:
    """Remove *path* for good; already gone is success."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
