"""`caas check` and `caas compile`: they read a file and contact no host."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.options import (
    CONFIG,
    DISTRIBUTION,
    FILE,
    FILE_NAME,
    JSON,
    choose_distributions,
    with_coordinator,
)
from coordinator.cli.output import Document, print_document, print_table, print_warning
from coordinator.compiling import NO_FACTS, compile_cluster, to_document
from coordinator.config import Surroundings, load_bytes, load_file, read_bytes
from coordinator.conflicts import claims_of
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code
from proto.model.network import TABLE_MAIN


@click.command(short_help="Say whether a cluster file is right.")
@FILE
@FILE_NAME
@DISTRIBUTION
@CONFIG
@with_coordinator
def check(coordinator: Coordinator, file: str, name: str, distributions: tuple[str, ...], config: Path | None) -> None:
    """Read the cluster file FILE and print every mistake in it, each with its line and what would be right.

    FILE is a cluster file of ours, or one of Rally's deployment files (docs/rally.md). What of it has no effect, and
    what `caas up` would refuse, is told by warnings.

    No host is contacted: what only they can know (links, MTU, room, kernels) is checked by `caas plan` and `caas up`.
    For a file that publishes something, the coordinator is asked whether another cluster has that already.

    \b
    Example:
      caas check examples/demo.yaml

    \b
    Exit status:
      0  the file is right
      2  it is not; the mistakes are on standard error
    """
    content = read_bytes(file)
    chosen = choose_distributions(distributions, config)
    cluster = load_bytes(content, file=file, name=name, surroundings=Surroundings(distributions=chosen))
    if any(claims_of(cluster)):
        sent = pb.FileRequest(content=content, file_name=file, name=cluster.name, distributions=chosen)
        _check_with(coordinator, sent)
    for warning in compile_cluster(cluster).warnings:
        if warning != NO_FACTS:
            print_warning(warning)
    verdict = "it can be compiled, and not be brought up" if cluster.obstacles else "all right"
    click.echo(
        f"{file}: cluster {cluster.name}: {_count(len(cluster.hosts), 'host')}, "
        f"{_count(len(cluster.networks), 'network')}, {_count(len(cluster.containers), 'container')}: {verdict}"
    )


def _check_with(coordinator: Coordinator, sent: pb.FileRequest) -> None:
    """What other clusters have: a coordinator that is away keeps nobody from reading a file."""
    try:
        coordinator.check(sent)
    except CaasError as error:
        if error.code is not Code.UNREACHABLE:
            raise
        print_warning(f"whether another cluster publishes the same is not known: {error.message}")


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """A thousand hosts are millions of objects, none of them in a cycle: looking for cycles would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _surroundings(distributions: tuple[str, ...], config: Path | None) -> Surroundings:
    return Surroundings(distributions=choose_distributions(distributions, config))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@click.command("compile", short_help="Show what a cluster file comes to, host by host.")
@FILE
@FILE_NAME
@DISTRIBUTION
@CONFIG
@JSON
def compile_command(file: str, name: str, distributions: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Print what the cluster file FILE comes to: each host's links, routes and containers, and NATBox's table.

    Nothing is contacted: an underlay MTU of 1500 is assumed. The same file gives the same answer, always: names,
    addresses and MACs are derived, not drawn.

    \b
    Example:
      caas compile --json examples/demo.yaml | jq '.hosts.host1.containers'

    \b
    Exit status:
      0  done
      2  the file is wrong; the mistakes are on standard error
    """
    with _without_collecting():
        surroundings = _surroundings(distributions, config)
        document = to_document(compile_cluster(load_file(file, name=name, surroundings=surroundings)))
    if as_json:
        print_document(document)
        return
    for warning in document["warnings"]:
        print_warning(warning)
    _show(document)


def _place(link: Document) -> str:
    match link["kind"]:
        case "vlan":
            return f"  VID {link['vid']} of {link['parent']}, in {link['master']}"
        case "ipip":
            return f"  {link['local']} to {link['remote'] or 'any'}"
        case _:
            return ""


def _show(document: Document) -> None:
    click.echo(f"cluster {document['cluster']}")
    for host, state in document["hosts"].items():
        click.echo(f"\n{host}")
        if not any(state.values()):
            click.echo("  nothing")
        for link in state["links"]:
            click.echo(f"  {link['kind']:7} {link['name']:15}  mtu {link['mtu']}{_place(link)}")
        for address in state["addresses"]:
            click.echo(f"  address {address['address']} on {address['link']}")
        for route in state["routes"]:
            table = "" if route["table"] == TABLE_MAIN else f" table {route['table']}"
            source = f" src {route['src']}" if route["src"] else ""
            click.echo(f"  route   {route['dst']} dev {route['dev']}{source}{table}")
        for rule in state["rules"]:
            click.echo(f"  rule    from {rule['from']} to {rule['to']} table {rule['table']}")
        for forward in state.get("forwards", ()):
            click.echo(f"  forward {forward['address']}:{forward['port']} to {forward['to']}, {forward['container']}")
        if state["containers"]:
            rows = [[one[key] for key in ("name", "address", "mac", "link", "image")] for one in state["containers"]]
            roles = [" ".join(one["roles"]) for one in state["containers"]]
            head = ("CONTAINER", "ADDRESS", "MAC", "LINK", "IMAGE", "ROLES")
            print_table(head, [[*row, role] for row, role in zip(rows, roles, strict=True)], indent="  ")
    if document["natbox"]:
        click.echo("\nNATBox")
        rows = [[one[key] for key in ("network", "vid", "subnet", "gateway")] for one in document["natbox"]]
        print_table(("NETWORK", "VID", "SUBNET", "GATEWAY"), rows, indent="  ")
        for network in document["natbox"]:
            for line in list_published(network):
                click.echo(f"  {network['network']}: {line}")


def _whose(one: Document) -> str:
    return f", {one['container']}" if "container" in one else ""


def list_published(network: Document) -> Iterator[str]:
    """What of *network*, as `natbox` of the document has it, the world outside sees, and its limits: a line each."""
    external = network.get("external", "")
    if external:
        yield f"external {external}"
    for one in network.get("publications", ()):
        yield f"publish {external or 'uplink'}:{one['port']}/{one['protocol']} to {one['to']}{_whose(one)}"
    for one in network.get("own_addresses", ()):
        yield f"own address {one['external']} of {one['address']}{_whose(one)}"
    if limits := network.get("limits"):
        yield f"limits {', '.join(f'{key} {number}' for key, number in limits.items() if number)}"
