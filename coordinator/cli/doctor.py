"""`caas doctor`: what is wrong with the hosts themselves."""

from __future__ import annotations

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.options import JSON, with_coordinator
from coordinator.cli.output import print_document


@click.command(short_help="Look for what on a host works against clusters.")
@click.argument("name", default="", metavar="[HOST|CLUSTER]")
@JSON
@with_coordinator
def doctor(coordinator: Coordinator, name: str, as_json: bool) -> None:
    """Ask the agent of HOST, of each host of CLUSTER, or of all, what on its host works against clusters.

    Packet filters that drop what is forwarded, daemons that take links or delete routes, limits that are too low: each
    with why it matters and the command that mends it. Nothing is changed.

    \b
    Example:
      caas doctor host1

    \b
    Exit status:
      0  nothing was found
      1  something was found, or an agent does not answer
    """
    document = coordinator.doctor(name)
    if as_json:
        print_document(document)
    for host, found in document["hosts"].items() if not as_json else ():
        if found["agent"] != "up":
            click.echo(f"{host}: its agent does not answer: {found['message']}")
        elif not found["findings"]:
            click.echo(f"{host}: nothing found")
        for one in found["findings"]:
            click.echo(f"{host}: {one['what']}\n  why:  {one['why']}\n  mend: {one['mend']}")
    if not document["ok"]:
        raise click.exceptions.Exit(1)
