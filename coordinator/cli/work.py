"""`caas plan`, `caas up` and `caas down`: what changes clusters, and what says so beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.options import (
    CONFIG,
    DISTRIBUTION,
    FILE,
    FILE_NAME,
    JSON,
    NAME,
    choose_distributions,
    with_coordinator,
)
from coordinator.cli.output import Document, print_document, print_error, print_table, show_behind, show_seconds
from coordinator.cli.progress import Outcome, follow, parse_document
from coordinator.config import Surroundings, load_bytes, read_bytes
from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

REMOVE = click.option("--remove", is_flag=True, help="Allow removing what the file no longer has.")
RESTART = click.option("--restart", is_flag=True, help="Allow restarting containers that a change needs.")
FORGET = click.option(
    "--forget",
    multiple=True,
    metavar="HOST",
    help="Give up HOST, which does not answer: it is not waited for, and what it has of the cluster stays there.",
)


@click.command(short_help="Say what `up` would do; change nothing.")
@FILE
@FILE_NAME
@DISTRIBUTION
@CONFIG
@JSON
@with_coordinator
def plan(
    coordinator: Coordinator,
    file: str,
    name: str,
    distributions: tuple[str, ...],
    config: Path | None,
    as_json: bool,
) -> None:
    """Print the pending work for the cluster file FILE: what each host and NATBox would change, and nova's steps.

    Every host is asked and nothing is changed. Removals and restarts are in it, so that they can be read before
    `caas up` is given --remove or --restart. Hosts that are away are listed with what can be told without them.

    \b
    Example:
      caas plan examples/demo.yaml

    \b
    Exit status:
      0  done, whether or not there is pending work
      1  a host cannot do it, or is away and was never asked
      2  the file or the call is wrong
    """
    request = _make_request(file, name, choose_distributions(distributions, config))
    request.remove = request.restart = True
    document = coordinator.plan(request)
    if as_json:
        print_document(document)
        return
    _show_plan(document)


def _show_plan(document: Document) -> None:
    if not any(document.get(key) for key in ("hosts", "natbox", "steps", "behind")):
        click.echo("nothing to do")
        return
    for where, actions in [
        *((host, found["actions"]) for host, found in document["hosts"].items()),
        ("NATBox", document["natbox"]),
    ]:
        if actions:
            click.echo(where)
            for one in actions:
                click.echo(f"  {one['verb']} {one['kind']} {one['name']}: {one['why']}")
    if document["steps"]:
        click.echo("nova")
        for step in document["steps"]:
            after = f"  after {', '.join(step['needs'])}" if step["needs"] else ""
            click.echo(f"  {step['id']}{after}")
    show_behind(document.get("behind", {}))


@click.command(short_help="Make a cluster as its file says.")
@FILE
@FILE_NAME
@DISTRIBUTION
@CONFIG
@REMOVE
@RESTART
@FORGET
@with_coordinator
def up(
    coordinator: Coordinator,
    file: str,
    name: str,
    distributions: tuple[str, ...],
    config: Path | None,
    remove: bool,
    restart: bool,
    forget: tuple[str, ...],
) -> None:
    """Bring the cluster of FILE up, or make a running one as the file says now.

    First everything is checked, with nothing changed: the file, every host, the images. Then the hosts get their
    links and containers, and nova is set up in them. It ends when nova lists every compute as up and a server has
    booted on each new one. Only what is not yet so is done: a second `caas up` of the same file changes nothing, and
    after an interrupt the same command goes on.

    It never asks. What would remove or restart something that runs is refused with the list, unless --remove or
    --restart allows it. Running containers are never moved or renumbered.

    A host that the cluster is on and that does not answer is left out: everything is done for the others, and the
    coordinator does the rest by itself when the host is back. `caas status` says who is behind, and by what. A host
    that will not come back is taken out of the file; then it is given up with --forget.

    \b
    Example:
      caas up examples/demo.yaml
      caas up examples/demo-two-computes.yaml    # adds a compute; touches nothing else

    \b
    Exit status:
      0    the cluster is as the file says, or will be when hosts are back that are away: the last line names them
      1    it failed, or a host refused before anything was changed
      2    the file or the call is wrong, or it would remove or restart something
      130  interrupted; the same command goes on from there
    """
    request = _make_request(file, name, choose_distributions(distributions, config))
    request.remove, request.restart = remove, restart
    request.forget.extend(forget)
    cluster = request.file.name
    words = "".join(f" --distribution {word}" for word in distributions)
    words += "".join(f" --forget {host}" for host in forget)
    again = f"caas up {file}{words}{' --remove' if remove else ''}{' --restart' if restart else ''}"
    outcome = _work(coordinator.up(request), again)
    _show_summary(cluster, outcome)


def _make_down_request(word: str, distributions: tuple[str, ...], config: Path | None) -> pb.NameRequest:
    """A cluster's name has neither '.' nor '/': anything else is a file."""
    if not {".", "/"} & set(word):
        return pb.NameRequest(name=word)
    sent = _make_request(word, "", choose_distributions(distributions, config)).file
    return pb.NameRequest(name=sent.name, file=sent)


def _make_request(file: str, name: str, distributions: Mapping[str, str]) -> pb.UpRequest:
    """The file is checked here as well: its mistakes need no coordinator, and there is no limit to their number."""
    content = read_bytes(file)
    cluster = load_bytes(content, file=file, name=name, surroundings=Surroundings(distributions=distributions))
    sent = pb.FileRequest(content=content, file_name=file, name=cluster.name, distributions=distributions)
    return pb.UpRequest(file=sent)


def _work(events: Iterable[pb.Event], again: str) -> Outcome:
    """Follow work to its end. An interrupt is told with the command that goes on."""
    try:
        outcome = follow(events)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted: what was done stays, what was half-done is undone or done again by: {again}", err=True
        )
        raise click.exceptions.Exit(130) from None
    if outcome.failed:
        raise CaasError(Code.FAILED, f"failed: {', '.join(outcome.failed)}", hint=f"mend it, then: {again}")
    return outcome


def _show_summary(cluster: str, outcome: Outcome) -> None:
    document = parse_document(outcome)
    computes = document.get("computes_up")
    state = f", {computes} compute{'' if computes == 1 else 's'} up" if computes is not None else ""
    if not any((document.get("steps"), document.get("behind"), *document.get("writes", {}).values())):
        click.echo(f"{cluster}: nothing to do{state} ({show_seconds(outcome.seconds)})")
    else:
        but = f", but for {', '.join(document['behind'])}" if document.get("behind") else ""
        click.echo(f"{cluster}: done{but}{state}\n")
        phases: dict[str, float] = document.get("phases") or outcome.phases
        rows = [(phase, show_seconds(seconds)) for phase, seconds in phases.items()]
        print_table(("PHASE", "TIME"), [*rows, ("in all", show_seconds(outcome.seconds))], indent="  ")
    behind = document.get("behind", {})
    show_behind(behind)
    click.echo(f"\nLook around:\n  caas status {cluster}\n  caas openstack {cluster} -- server list --all-projects")
    if behind:
        click.echo(f"\n{cluster} is degraded: {_name(behind)}; what is pending is done when it answers, by itself")


def _name(behind: Mapping[str, Document]) -> str:
    hosts = ", ".join(behind)
    return f"{hosts} {'is' if len(behind) == 1 else 'are'} behind"


@click.command(short_help="Remove a cluster.")
@NAME
@DISTRIBUTION
@CONFIG
@FORGET
@with_coordinator
def down(
    coordinator: Coordinator,
    name: str,
    distributions: tuple[str, ...],
    config: Path | None,
    forget: tuple[str, ...],
) -> None:
    """Remove the cluster NAME: its containers with all their data, its links, and its table at NATBox.

    What does not carry the cluster's mark stays. A cluster that is not there is removed already: that is no failure.
    From a host that does not answer it is removed when the host is back, by the coordinator itself; `caas status` names
    it until then. One that will not come back is given up with --forget.
    When all is removed each host looks again, and names what is left.

    In place of NAME a cluster file (with a '.' or '/' in its name) may be given: then the hosts that it names are
    asked as well, whether or not the coordinator knows the cluster.

    \b
    Example:
      caas down demo
      caas down examples/demo.yaml
      caas down demo --forget host2

    \b
    Exit status:
      0    it is gone, was not there, or will be gone when hosts are back that are away: they are named
      1    something could not be removed, or is left; the same command goes on
      130  interrupted; the same command goes on from there
    """
    try:
        request = _make_down_request(name, distributions, config)
        request.forget.extend(forget)
        words = "".join(f" --forget {host}" for host in forget)
        outcome = _work(coordinator.down(request), f"caas down {name}{words}")
    except CaasError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        print_error(CaasError(error.code, error.message).about("nothing to remove"))
        return
    if behind := parse_document(outcome).get("behind"):
        show_behind(behind)
        click.echo(f"\n{name}: {_name(behind)}; what is there is removed when it answers, by itself")
    elif outcome.done:
        click.echo(f"{name}: gone, nothing is left ({show_seconds(outcome.seconds)})")
