"""`caas check` and `caas compile`: they read a file and contact nothing."""

from __future__ import annotations

import click

from coordinator.cli.options import FILE, FILE_NAME, JSON
from coordinator.cli.output import Document, print_document, print_table, print_warning
from coordinator.compiling import compile_cluster, to_document
from coordinator.config import load_file


@click.command(short_help="Say whether a cluster file is right.")
@FILE
@FILE_NAME
def check(file: str, name: str) -> None:
    """Read the cluster file FILE and print every mistake in it, each with its line and what would be right.

    Nothing is contacted: what only the hosts can know (links, MTU, room, kernels) is checked by `caas plan` and
    `caas up`.

    \b
    Example:
      caas check examples/demo.yaml

    \b
    Exit status:
      0  the file is right
      2  it is not; the mistakes are on standard error
    """
    cluster = load_file(file, name=name)
    compile_cluster(cluster)
    click.echo(
        f"{file}: cluster {cluster.name}: {_count(len(cluster.hosts), 'host')}, "
        f"{_count(len(cluster.networks), 'network')}, {_count(len(cluster.containers), 'container')}: all right"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@click.command("compile", short_help="Show what a cluster file comes to, host by host.")
@FILE
@FILE_NAME
@JSON
def compile_command(file: str, name: str, as_json: bool) -> None:
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
    document = to_document(compile_cluster(load_file(file, name=name)))
    if as_json:
        print_document(document)
        return
    for warning in document["warnings"]:
        print_warning(warning)
    _show(document)


def _show(document: Document) -> None:
    click.echo(f"cluster {document['cluster']}")
    for host, state in document["hosts"].items():
        click.echo(f"\n{host}")
        if not any(state.values()):
            click.echo("  nothing")
        for link in state["links"]:
            on = f"  VID {link['vid']} of {link['parent']}, in {link['master']}" if link["kind"] == "vlan" else ""
            click.echo(f"  {link['kind']:7} {link['name']:15}  mtu {link['mtu']}{on}")
        if state["containers"]:
            rows = [[one[key] for key in ("name", "address", "mac", "link", "image")] for one in state["containers"]]
            roles = [" ".join(one["roles"]) for one in state["containers"]]
            head = ("CONTAINER", "ADDRESS", "MAC", "LINK", "IMAGE", "ROLES")
            print_table(head, [[*row, role] for row, role in zip(rows, roles, strict=True)], indent="  ")
    if document["natbox"]:
        click.echo("\nNATBox")
        rows = [[one[key] for key in ("network", "vid", "subnet", "gateway")] for one in document["natbox"]]
        print_table(("NETWORK", "VID", "SUBNET", "GATEWAY"), rows, indent="  ")
