"""`caas natbox`: what NATBox does for the clusters, and what it would do with a packet."""

from __future__ import annotations

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.files import list_published
from coordinator.cli.hand_over import hand_over
from coordinator.cli.options import JSON, with_coordinator
from coordinator.cli.output import Document, print_document, print_table, show_bytes
from coordinator.packet import parse_packet
from proto import coordinator_pb2 as pb

NATBOX = click.option("--natbox", default="", metavar="ADDRESS", help="The NATBox at this management address.")
#: The heads of what `traffic_of` gives.
TRAFFIC = ("OUT", "BYTES", "IN", "BYTES", "CONNECTIONS", "DROPPED")
HEAD = ("CLUSTER", "NETWORK", "VID", "SUBNET", "EXTERNAL", *TRAFFIC)


@click.group(short_help="Look at NATBox, and ask it about packets.")
def natbox() -> None:
    """The gateway that clusters share: what it has and does, and why it lets a packet pass or not."""


natbox.add_command(hand_over)


@natbox.command(short_help="Show what NATBox has and does.")
@NATBOX
@JSON
@with_coordinator
def status(coordinator: Coordinator, natbox: str, as_json: bool) -> None:
    """Show each NATBox that a cluster has: every cluster's networks there, what passed, connections, drops by reason.

    What is near a limit, and a NATBox that does not answer, are shown in red.

    \b
    Example:
      caas natbox status
      caas natbox status --json | jq '.natboxes[].networks[] | select(.drops != {})'

    \b
    Exit status:
      0  every NATBox was looked at
      1  one does not answer; or the coordinator does not
    """
    document = coordinator.natbox_status(natbox)
    if as_json:
        print_document(document)
    elif not document["natboxes"]:
        click.echo("no cluster has a NATBox")
    for one in document.get("pair", ()) if not as_json else ():
        _show_one_of_two(one)
    for number, found in enumerate(document["natboxes"] if not as_json else ()):
        if number:
            click.echo()
        _show_natbox(found)
    if any(found["state"] != "up" for found in document["natboxes"]):
        raise click.exceptions.Exit(1)


def _show_natbox(found: Document) -> None:
    if found["state"] != "up":
        show_alarm(f"NATBox at {found['address']}: {found['state']}: {found['message']}")
        return
    addresses = " ".join(found["uplink_addresses"])
    click.echo(f"NATBox at {found['address']}: trunk {found['trunk']}, uplink {found['uplink']} {addresses}".rstrip())
    click.echo(f"connections {show_share(found)}")
    for alarm in found["alarms"]:
        show_alarm(alarm)
    for lack in found["lacks"]:
        show_alarm(f"{lack['what']}: {lack['mend']}")
    _show_networks(found["networks"])
    if found["trunk_drops"]:
        click.echo("\ndropped, of no network:")
        show_drops(found["trunk_drops"])


def _show_one_of_two(one: Document) -> None:
    what = f"{one['role']}, epoch {one['epoch']}" if one["role"] else "does not answer"
    click.echo(f"{one['address']}: {what}")
    for reason in one["unfit"]:
        show_alarm(f"  {reason}")


def show_alarm(text: str) -> None:
    """A line in red, where standard output is a terminal."""
    click.echo(click.style(text, fg="red"))


def _show_networks(networks: list[Document]) -> None:
    """A line for each, then what they publish, then their drops by reason."""
    if not networks:
        return
    click.echo()
    print_table(HEAD, [_row(one) for one in networks])
    if published := [(one, line) for one in networks for line in list_published(one)]:
        click.echo()
        for one, line in published:
            click.echo(f"{one['cluster']}/{one['network']}: {line}")
    for one in networks:
        if one["drops"]:
            click.echo(f"\ndropped, of {one['cluster']}/{one['network']}:")
            show_drops(one["drops"])


def _row(one: Document) -> tuple[object, ...]:
    return (
        one["cluster"],
        one["network"],
        one["vid"],
        one["subnet"],
        one.get("external", "-"),
        *traffic_of(one),
    )


def traffic_of(one: Document) -> tuple[object, ...]:
    """What passed NATBox for a network, the connections that it has, and how much was dropped."""
    return (
        one["out_packets"],
        show_bytes(one["out_bytes"]),
        one["in_packets"],
        show_bytes(one["in_bytes"]),
        show_share(one),
        sum(one["drops"].values()),
    )


def show_share(one: Document) -> str:
    """How many connections there are, and how many there may be."""
    return f"{one['connections']} of {one['connections_max']}" if one["connections_max"] else str(one["connections"])


def show_drops(drops: dict[str, int]) -> None:
    """A line for each reason."""
    for reason, count in drops.items():
        click.echo(f"  {count}  {reason}")


@natbox.command(short_help="Say what NATBox would do with a packet, and why.")
@click.argument("packet", nargs=-1, required=True)
@NATBOX
@JSON
@with_coordinator
def explain(coordinator: Coordinator, packet: tuple[str, ...], natbox: str, as_json: bool) -> None:
    """Say whether NATBox would let PACKET pass, and what it looks at, in order. No packet is sent.

    \b
    PACKET is
      WHERE SOURCE[:PORT] to DESTINATION[:PORT] [PROTOCOL [PORT]] [mac MAC]
    WHERE is
      uplink        it comes from outside
      vid N         it comes from the trunk with this VLAN ID
      untagged      it comes from the trunk without one

    PROTOCOL is tcp, udp or icmp; without it icmp, or tcp where there is a port. A source port that is not said is
    49152. In quotes, '>' stands for `to`. It is about a packet that begins a connection, with the table as it is now.

    \b
    Example:
      caas natbox explain vid 100 192.168.10.50 to 203.0.113.254 tcp 80
      caas natbox explain "uplink 198.51.100.9 > 203.0.113.1:8774"

    \b
    Exit status:
      0  it was explained, whatever the verdict
      1  NATBox does not answer
      2  PACKET is none; or there are several NATBoxes, and --natbox says none
    """
    request = pb.ExplainRequest(natbox=natbox, packet=parse_packet(" ".join(packet)))
    document = coordinator.explain(request)
    if as_json:
        print_document(document)
        return
    whose = f", of {document['cluster']}/{document['network']}" if document["cluster"] else ""
    reason = f": {document['reason']}" if document["reason"] else ""
    click.echo(f"{document['verdict']}{reason}{whose}")
    for number, step in enumerate(document["steps"], 1):
        click.echo(f"  {number}. {step}")
