"""From a file's bytes to a checked ClusterFile, or to one error that lists every problem."""

from __future__ import annotations

from pathlib import Path as FilePath

from coordinator.config.check import check_cluster
from coordinator.config.cluster import ClusterFile
from coordinator.config.document import DocumentReader
from coordinator.config.problem import Report
from coordinator.config.tree import SIZE_MAX, read_tree
from proto.errors import CaasError, invalid
from proto.names import check_cluster_name


def load_bytes(content: bytes, *, file: str, name: str = "") -> ClusterFile:
    """The cluster in *content*. *file* is what messages call it; *name* names a cluster whose file does not.

    Where neither gives a name, it is the file's stem. ConfigError (INVALID) lists every problem; a *name* that
    contradicts the file's is INVALID.
    """
    report = Report(file)
    root = read_tree(content, report)
    if root is None:
        report.check()
        raise invalid(f"{file}: cannot be read")
    cluster = DocumentReader(report, default_name=name or FilePath(file).stem).read(root)
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


def load_file(path: str, *, name: str = "") -> ClusterFile:
    """The cluster in the file *path*; see load_bytes."""
    return load_bytes(read_bytes(path), file=path, name=name)
