"""What a cluster file must not do to containers that are there: move, renumber or remake them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coordinator.compiling.facts import Placed, Remembered
from coordinator.config import ClusterFile
from coordinator.config.problem import Report
from proto.model import Container


def check_kept(file: ClusterFile, containers: Mapping[str, Container], remembered: Remembered, report: Report) -> None:
    """Report each container of *remembered* that *file* would move, renumber or remake."""
    for name, spec in file.containers.items():
        placed = remembered.containers.get(name)
        if placed is None:
            continue
        for key, change in _changes(placed, spec.host, containers[name]):
            report.add(
                file.place("containers", name, key),
                f"containers.{name}",
                f"it is there already, and this would {change}",
                hint="undo that change in the file, or remove the container first: take it out, caas up --remove",
            )


def _changes(placed: Placed, host: str, wanted: Container) -> Iterator[tuple[str, str]]:
    """The key of the file that did it, and what it would do, for each thing that must stay."""
    before, after = placed.container, wanted
    if placed.host != host:
        yield "host", f"move it from {placed.host} to {host}"
    if before.nic.address.ip != after.nic.address.ip:
        yield "address", f"renumber it from {before.nic.address.ip} to {after.nic.address.ip}"
    elif before.nic.address != after.nic.address:
        yield "network", f"change its prefix length from {before.nic.address} to {after.nic.address}"
    if before.nic.bridge != after.nic.bridge:
        yield "network", f"move it from bridge {before.nic.bridge} to {after.nic.bridge}"
    if before.nic.gateway != after.nic.gateway:
        yield "network", f"change its gateway from {before.nic.gateway} to {after.nic.gateway}"
    if before.nic.mtu != after.nic.mtu:
        yield "network", f"change its MTU from {before.nic.mtu} to {after.nic.mtu}"
    if before.image != after.image:
        yield "roles", f"make it again from image {after.image} instead of {before.image}"
    if before.clone_of != after.clone_of:
        yield (
            "roles",
            f"make it again from {after.clone_of or after.image} instead of {before.clone_of or before.image}",
        )
