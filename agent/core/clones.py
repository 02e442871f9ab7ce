"""Clones in a plan: each after what it is made from, and refused where there is nothing to make it from. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from proto.errors import CaasError, Code, invalid
from proto.model import Container
from proto.names import make_lxc_name


def source_name(container: Container) -> str:
    """LXC's name of what *container* is cloned from, or "" where it is no clone."""
    return make_lxc_name(container.cluster, container.clone_of) if container.clone_of else ""


def clone_depths(creating: Mapping[str, Container], standing: Mapping[str, Container]) -> dict[str, int]:
    """For each name of *creating*, how many of its ancestors are in it, too: these are made before it.

    *standing* are the containers that are there and stay. NOT_FOUND for a clone of nothing on this host, CONFLICT
    where the source has another image, INVALID for a circle.
    """
    depths: dict[str, int] = {}
    for name in creating:
        line = [name]
        while line[-1] not in depths and (source := source_name(creating[line[-1]])) in creating:
            if source in line:
                raise invalid(f"containers {', '.join(line)}: each is a clone of the next, and the last of {source}")
            line.append(source)
        for later in reversed(line):
            container, source = creating[later], source_name(creating[later])
            if later not in depths:
                depths[later] = depths[source] + 1 if source in creating else 0
                if source:
                    _check_source(container, source, creating.get(source) or standing.get(source))
    return depths


def _check_source(container: Container, name: str, source: Container | None) -> None:
    if source is None:
        raise CaasError(
            Code.NOT_FOUND,
            f"container {container.name}: there is no {name} on this host to clone",
            hint=f"keep {container.clone_of} in the file, on the same host as its clones",
        )
    if source.image != container.image:
        raise CaasError(
            Code.CONFLICT,
            f"container {container.name}: its image is {container.image}, and {name}, to be cloned, has {source.image}",
            hint="a clone has the image of its source",
        )
