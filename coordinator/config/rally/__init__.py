"""Rally's deployment files (2013 to 2017), in every spelling they had, as the ClusterFile that our own become.

What has no effect any more is a warning that names the key and says why; what cannot be done is an obstacle, or an
error with its line where nothing can be made of the file. The page for users is docs/rally.md.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

from coordinator.config import tree
from coordinator.config.check import check_places
from coordinator.config.cluster import ClusterFile
from coordinator.config.problem import Report
from coordinator.config.rally.build import Builder
from coordinator.config.rally.keys import Keys
from coordinator.config.rally.notes import Notes
from coordinator.config.rally.read import RallyReader
from coordinator.config.surroundings import DISTRIBUTIONS, Surroundings
from proto.errors import CaasError
from proto.names import CLUSTER_MAX, check_cluster_name

_DIGITS = 8


def load_rally(root: tree.Node, report: Report, surroundings: Surroundings, *, name: str) -> ClusterFile:
    """The cluster called *name* of the deployment file *root*. Mistakes go into *report*: raise them before its use."""
    notes = Notes.of(report)
    reader = RallyReader(notes)
    parts = reader.read(root)
    for distribution, release, keys in reader.images:
        _check_image(distribution, release, keys, surroundings)
    cluster = Builder(notes, surroundings, name=name).build(parts)
    if not report.problems:
        check_places(cluster, report)
    return cluster


def make_cluster_name(file: str) -> str:
    """A cluster's name from the stem of *file*; a long one is cut and ends in 8 hex digits of its hash."""
    stem = PurePath(file).stem
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "cluster"
    if len(name) > CLUSTER_MAX:
        digest = hashlib.sha256(stem.encode()).hexdigest()[:_DIGITS]
        name = f"{name[: CLUSTER_MAX - _DIGITS - 1].strip('-')}-{digest}"
    try:
        return check_cluster_name(name)
    except CaasError:
        return check_cluster_name(f"cluster-{name}")


def _check_image(distribution: str, release: str, keys: Keys, surroundings: Surroundings) -> None:
    """An image for *distribution* is what the call maps it to, or made of just that."""
    asked = f"{distribution}:{release}" if release else distribution
    given = surroundings.distributions
    chosen = given.get(asked.lower()) or given.get(distribution.lower())
    if chosen is None and asked.lower() in (*DISTRIBUTIONS, *(known.partition(":")[0] for known in DISTRIBUTIONS)):
        return
    if chosen is None:
        message = f"there is no image of {asked}"
        hint = f"say what to take instead: --distribution {distribution}={DISTRIBUTIONS[0]}"
        key = "distribution" if keys.node("distribution") is not None or not release else "release"
        keys.wrong(key, message, hint=hint)
    elif chosen != asked.lower():
        keys.notes.warn(
            keys.where("distribution"), keys.at("distribution"), f"{asked} is {chosen} here, as the call says"
        )
