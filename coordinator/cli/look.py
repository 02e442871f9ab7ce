"""`caas status`, `verify`, `test` and `logs`: how a cluster is."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.natbox import TRAFFIC, show_alarm, show_drops, traffic_of
from coordinator.cli.options import JSON, NAME, with_coordinator
from coordinator.cli.output import (
    Document,
    print_document,
    print_table,
    show_behind,
    show_seconds,
    show_size,
)
from coordinator.cli.progress import follow, parse_document
from coordinator.reach import make_matrix
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

#: Lines about drift in `caas status`; --json has all that the agents tell.
DRIFT_SHOWN = 5


@click.command(short_help="Show a cluster as it is now, or all of them.")
@click.argument("name", default="")
@JSON
@with_coordinator
def status(coordinator: Coordinator, name: str, as_json: bool) -> None:
    """Show the cluster NAME as it is now: state, hosts, containers and nova's services. Without NAME, all clusters.

    \b
    States:
      absent     there is no such cluster
      deploying  `caas up` is at work, or was interrupted
      up         everything runs, and nova lists every compute as up
      degraded   something that should run does not, or waits for a host that is away
      failed     the last `caas up` failed

    \b
    Example:
      caas status demo
      caas status --json demo | jq .nova.computes_up

    \b
    Exit status:
      0  it could be looked at, whatever its state
      1  the coordinator does not answer
    """
    document = coordinator.status(name)
    if as_json:
        print_document(document)
    elif name:
        _show_cluster(document)
    else:
        _show_clusters(document)


def _show_clusters(document: Document) -> None:
    clusters: list[Any] = document["clusters"]
    if not clusters:
        click.echo("no clusters")
        return
    rows = [
        (one.get("cluster", one.get("name", "")), one.get("state", ""), one.get("generation", ""))
        if isinstance(one, dict)
        else (one, "", "")
        for one in clusters
    ]
    print_table(("CLUSTER", "STATE", "GENERATION"), rows)


def _show_cluster(document: Document) -> None:
    click.echo(f"{document['cluster']}: {document['state']}, generation {document['generation']}")
    if hosts := document["hosts"]:
        click.echo()
        rows = [
            (host, found["agent"], *(found["datapath"].get(kind) or "-" for kind in ("vlan", "ipip", "vxlan")))
            for host, found in hosts.items()
        ]
        print_table(("HOST", "AGENT", "VLAN", "IPIP", "VXLAN"), rows)
        for host, found in hosts.items():
            _show_confirmation(host, found)
    if ways := document.get("overlay"):
        click.echo()
        rows = [(f"{way['a']} {way['b']}", way["method"], way["why"]) for way in ways]
        print_table(("PAIR", "OVERLAY", "WHY"), rows)
    if containers := document["containers"]:
        click.echo()
        rows = [
            (
                one["name"],
                one["host"],
                one["address"],
                one["state"],
                one["pid"] or "-",
                show_size(one["memory_bytes"] or 0),
                " ".join(one["roles"]),
            )
            for one in containers
        ]
        print_table(("CONTAINER", "HOST", "ADDRESS", "STATE", "PID", "MEMORY", "ROLES"), rows)
    if natbox := document.get("natbox"):
        click.echo()
        _show_natbox(natbox)
    show_behind(document.get("behind", {}))
    show_drift(document.get("drift", ())[-DRIFT_SHOWN:])
    nova = document.get("nova") or {}
    if services := nova.get("services"):
        click.echo()
        rows = [(one["binary"], one["host"], one["state"], one["status"]) for one in services]
        print_table(("SERVICE", "HOST", "STATE", "STATUS"), rows)
        count = nova["computes_up"]
        click.echo(f"\n{count} compute{'' if count == 1 else 's'} up")


def _show_natbox(natbox: Document) -> None:
    """What NATBox does for the cluster: a line for each network, and what it dropped, by reason."""
    if natbox["agent"] != "up":
        show_alarm(f"NATBox: {natbox['agent']}: {natbox['message']}")
        return
    rows = [(one["network"], one["vid"], *traffic_of(one)) for one in natbox["counters"]]
    print_table(("AT NATBOX", "VID", *TRAFFIC), rows)
    for alarm in natbox["alarms"]:
        show_alarm(alarm)
    for one in natbox["counters"]:
        show_drops(one["drops"])


def _show_confirmation(host: str, found: Document) -> None:
    if found.get("taken_back"):
        click.echo(
            f"{host}: its network is as before the last change, which was not confirmed in time: `caas up` again"
        )
    if left := found.get("unconfirmed"):
        click.echo(f"{host}: takes the last change of its network back in {left:.0f} s, unless it is confirmed")


def show_drift(events: Sequence[Document]) -> None:
    """What others changed of ours, a line each, and the mend where we do not."""
    if events:
        click.echo("\nchanged by others:")
    for one in events:
        when = datetime.datetime.fromtimestamp(one["time"]).isoformat(" ", "seconds")
        whom = f", by {one['by']}" if one["by"] else ""
        end = "mended" if one["mended"] else ": ".join(filter(None, ("not mended", one["hint"])))
        click.echo(f"  {when}  {one['host']}  {one['kind']} {one['name']}: {one['found']}{whom}; {end}")


@click.command(short_help="Try whether containers reach each other and nova is up.")
@NAME
@JSON
@with_coordinator
def verify(coordinator: Coordinator, name: str, as_json: bool) -> None:
    """Try what the cluster NAME promises, and change nothing.

    Every container must reach every other one of its network and its gateway, and nova must list every service and
    compute as up.

    \b
    Example:
      caas verify demo

    \b
    Exit status:
      0  everything is as it should be
      1  something is not; each difference is named
    """
    _look(coordinator.verify(name), f"{name}: everything is as it should be", as_json=as_json)


@click.command(short_help="Boot and delete a server on every compute.")
@NAME
@with_coordinator
def test(coordinator: Coordinator, name: str) -> None:
    """Use the cloud of the cluster NAME: boot a server on every compute, wait until it is active, delete it.

    \b
    Example:
      caas test demo

    \b
    Exit status:
      0  every compute booted its server
      1  one did not; it is named
    """
    _look(coordinator.test(name), f"{name}: every compute booted a server", as_json=False)


def _look(events: Iterable[pb.Event], well: str, *, as_json: bool) -> None:
    outcome = follow(events)
    document = parse_document(outcome)
    # A step that failed is among the problems, too.
    failed = [*document.get("problems", ())] or outcome.failed
    if as_json:
        print_document(document)
    elif pairs := document.get("pairs"):
        click.echo(f"{make_matrix(pairs, document.get('containers'))}\n")
    if failed or document.get("ok") is False:
        raise CaasError(Code.FAILED, f"not as it should be: {'; '.join(failed) or 'see above'}")
    if not as_json:
        click.echo(f"{well} ({show_seconds(outcome.seconds)})")


@click.command(short_help="Show what was done to a cluster, and when.")
@NAME
@click.option("--last", default=200, show_default=True, type=click.IntRange(1), help="At most so many lines.")
@with_coordinator
def logs(coordinator: Coordinator, name: str, last: int) -> None:
    """Print the coordinator's journal of the cluster NAME: each thing that was begun, when, and how it ended.

    What others changed of it on its hosts follows. Where the last run failed: each step that did, the error and what to
    do, the last warnings of its container, what units that do not come up there said last, and the last lines about
    the cluster in the log of its host's agent.

    What nova itself says is in its containers: caas exec NAME CONTAINER -- journalctl -u nova-compute

    \b
    Example:
      caas logs demo

    \b
    Exit status:
      0  done
      1  there is no such cluster, or the coordinator does not answer
    """
    document = coordinator.logs(name)
    for entry in document["entries"][-last:]:
        when = datetime.datetime.fromtimestamp(entry["began"]).isoformat(" ", "seconds")
        took = show_seconds(entry["ended"] - entry["began"]) if entry["ended"] else "-"
        line = f"{when}  {entry['outcome'] or 'not ended':11}  {took:>10}  {entry['step']}: {entry['title']}"
        click.echo(f"{line}: {entry['message']}" if entry["message"] else line)
    show_drift(document.get("drift", ()))
    _show_failures(document)


def _show_failures(document: Document) -> None:
    """Each step of the last run that did not end well, why, what to do, and what those say that it is about."""
    for entry in document.get("failed", ()):
        click.echo(f"\n{entry['outcome'] or 'not ended'}: {entry['step']}: {entry['title']}")
        for word, text in (("error", entry["message"]), ("hint", entry["hint"])):
            for line in text.splitlines():
                click.echo(f"  {word}: {line}")
    for title, found in (("{}, its last lines", "containers"), ("the agent of {}, its last lines", "agents")):
        for name, lines in document.get(found, {}).items():
            click.echo(f"\n{title.format(name)}")
            for line in lines or ("(none)",):
                click.echo(f"  {line}")
