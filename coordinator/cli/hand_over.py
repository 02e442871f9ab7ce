"""`caas natbox hand-over`: from one NATBox of the site's pair to the other."""

from __future__ import annotations

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.options import JSON, with_coordinator
from coordinator.cli.output import Document, print_document
from coordinator.cli.progress import follow, parse_document
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code


@click.command("hand-over", short_help="Have the other one of two NATBoxes work.")
@click.option("--to", default="", metavar="ADDRESS", help="The one at this management address.  [default: the standby]")
@JSON
@with_coordinator
def hand_over(coordinator: Coordinator, to: str, as_json: bool) -> None:
    """Have the standby of two NATBoxes work, and the other one stand by. Established connections go along.

    The two are named in the coordinator's configuration file (docs/natbox.md). Packets stop for a moment, a fraction of
    a second with some thousand connections. Where the standby fails, the first works again.

    \b
    Example:
      caas natbox hand-over
      caas natbox hand-over --to 192.168.2.24

    \b
    Exit status:
      0  the one that was meant works
      1  it failed; `caas natbox status` says which works
      2  there is no such NATBox, or the standby cannot carry packets: nothing was changed
    """
    outcome = follow(coordinator.hand_over(pb.HandOverRequest(to=to)))
    if outcome.failed:
        raise CaasError(Code.FAILED, f"failed: {', '.join(outcome.failed)}", hint="caas natbox status")
    document = parse_document(outcome)
    if as_json:
        print_document(document)
    else:
        click.echo(describe(document))


def describe(document: Document) -> str:
    """What happened, in a line."""
    if document["from"] == document["to"]:
        return f"{document['to']} works already"
    lost = f", {document['refused']} lost" if document["refused"] else ""
    return f"{document['to']} works: {document['connections']} connections{lost}, {document['seconds']:.2f} s"
