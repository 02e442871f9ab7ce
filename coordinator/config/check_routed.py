"""Routed networks of a cluster file: blocks, tunnels' ends, and how one overlay is joined."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from coordinator.config.cluster import ClusterFile, RoutedNetwork
from coordinator.config.problem import Report


def check_routed(file: ClusterFile, report: Report) -> None:
    """Report what is wrong with the routed networks of *file*, each and together."""
    first: RoutedNetwork | None = None
    for network in file.routed.values():
        first = first or network
        _check_peers(file, network, report)
        if network.overlay != first.overlay:
            message = f"{network.overlay}, but network {first.name} has {first.overlay}"
            _add(file, report, ("networks", network.name, "overlay"), message, hint="a cluster has one overlay")


def make_blocks(start: IPv4Network, hosts: Sequence[str]) -> dict[str, IPv4Network]:
    """Each of *hosts* with its block: the k-th has the k-th of *start*'s size. ValueError where the addresses end."""
    blocks = {}
    for index, host in enumerate(hosts):
        number = int(start.network_address) + index * start.num_addresses
        if number + start.num_addresses > 2**32:
            raise ValueError(f"the block of {host}, number {index + 1} from {start} on, ends beyond 255.255.255.255")
        blocks[host] = IPv4Network((number, start.prefixlen))
    return blocks


def _check_peers(file: ClusterFile, network: RoutedNetwork, report: Report) -> None:
    path = ("networks", network.name, "tunnel_to")
    first: set[IPv4Address] = set()
    for peer in network.tunnel_to:
        if peer in first:
            _add(file, report, path, f"{peer} is there twice", hint="keep one of them")
        first.add(peer)
        if why := _not_an_end(peer):
            _add(file, report, path, f"{peer} {why}", hint="the underlay address of a host")


def _not_an_end(peer: IPv4Address) -> str:
    if peer.is_multicast or peer.is_loopback or peer.is_unspecified or peer.is_reserved:
        return "is no host's address (RFC 6890)"
    return ""


def _add(file: ClusterFile, report: Report, path: tuple[str, ...], message: str, *, hint: str) -> None:
    report.add(file.place(*path), ".".join(path), message, hint=hint)
