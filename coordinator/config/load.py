"""From a file's bytes to a checked ClusterFile, or to one error that lists every problem."""

from __future__ import annotations

import re
from pathlib import Path as FilePath

from coordinator.config.check import check_cluster
from coordinator.config.cluster import ClusterFile
from coordinator.config.document import DocumentReader
from coordinator.config.json_tree import read_json
from coordinator.config.problem import Report
from coordinator.config.rally import load_rally, make_cluster_name
from coordinator.config.surroundings import Surroundings
from coordinator.config.tree import SIZE_MAX, Mapping, Node, read_tree
from proto.errors import CaasError, invalid
from proto.names import check_cluster_name

NOWHERE = Surroundings()
#: A flow mapping of YAML begins so too, but hardly with a key in double quotes.
_JSON_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"')


def load_bytes(content: bytes, *, file: str, name: str = "", surroundings: Surroundings = NOWHERE) -> ClusterFile:
    """The cluster in *content*: our own format in YAML or JSON, or one of Rally's deployment files in JSON.

    *file* is what messages call it; *name* names a cluster whose file does not. Where neither gives a name, it is the
    file's stem. ConfigError (INVALID) lists every problem; a *name* that contradicts the file's is INVALID.
    """
    report = Report(file)
    is_json = _is_json(content, file)
    root = read_json(content, report) if is_json else read_tree(content, report)
    if root is None:
        report.check()
        raise invalid(f"{file}: cannot be read")
    if is_json and not _is_ours(root):
        cluster = load_rally(root, report, surroundings, name=name or make_cluster_name(file))
    else:
        cluster = DocumentReader(report, default_name=name or FilePath(file).stem, agents=surroundings.agents).read(
            root
        )
        check_cluster(cluster, report)
    report.check()
    try:
        check_cluster_name(cluster.name)
    except CaasError as exc:
        raise CaasError(exc.code, f"{file}: {exc.message}", hint="add name: NAME to the file, or use --name") from exc
    if name and name != cluster.name:
        hint = "--name is for files without a name: leave it out"
        raise invalid(f"{file}: the file says name: {cluster.name}, the call says {name}", hint=hint)
    return cluster


def _is_json(content: bytes, file: str) -> bool:
    return FilePath(file).suffix.lower() == ".json" or _JSON_OBJECT.match(content) is not None


def _is_ours(root: Node) -> bool:
    return isinstance(root, Mapping) and not {"hosts", "networks", "containers"}.isdisjoint(root.entries)


def read_bytes(path: str) -> bytes:
    """The bytes of the cluster file *path*. INVALID where it cannot be read or is too large."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(SIZE_MAX + 1)
    except OSError as exc:
        hint = "see examples/demo.yaml" if isinstance(exc, FileNotFoundError) else ""
        raise invalid(f"{path}: {exc.strerror}", hint=hint) from exc
    if len(content) > SIZE_MAX:
        raise invalid(f"{path}: a cluster file has at most {SIZE_MAX} bytes")
    return content


def load_file(path: str, *, name: str = "", surroundings: Surroundings = NOWHERE) -> ClusterFile:
    """The cluster in the file *path*; see load_bytes."""
    return load_bytes(read_bytes(path), file=path, name=name, surroundings=surroundings)
