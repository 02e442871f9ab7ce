"""`caas exec`, `openstack` and `openrc`: inside a cluster."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from coordinator.cli.client import Coordinator
from coordinator.cli.options import NAME, with_coordinator
from coordinator.cli.streams import run_streaming
from proto import coordinator_pb2 as pb
from proto.errors import invalid

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _without_dashes(words: tuple[str, ...]) -> tuple[str, ...]:
    """*words* without the `--` that sets them apart from ours: click leaves it in where options end at a word."""
    return words[1:] if words[:1] == ("--",) else words


@click.command("exec", short_help="Run a command in a container.", context_settings=_PASS_ON)
@NAME
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@with_coordinator
def exec_command(coordinator: Coordinator, name: str, container: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in CONTAINER of the cluster NAME, as root, with this command's standard input, output and error.

    COMMAND is not given to a shell; for one, say: -- sh -c '…'. Options of caas itself come before NAME.

    \b
    Example:
      caas exec demo ubuntu011 -- systemctl status nova-api
      caas exec demo ubuntu011 -- tar c /var/log/nova | tar x

    \b
    Exit status:
      the command's own; 125 where the fault is ours (no such container, no answer)
    """
    argv = _without_dashes(command)
    if not argv:
        raise click.UsageError("a command is needed: caas exec NAME CONTAINER -- COMMAND")
    start = pb.CoordinatorExecInput.Start(name=name, container=container, argv=argv)
    sys.exit(run_streaming(coordinator, start))


@click.command(short_help="Run the OpenStack client in a cluster.", context_settings=_PASS_ON)
@NAME
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_coordinator
def openstack(coordinator: Coordinator, name: str, arguments: tuple[str, ...]) -> None:
    """Run the stock `openstack` client beside the API of the cluster NAME, as its administrator.

    Options of caas itself come before NAME.

    \b
    Example:
      caas openstack demo -- compute service list
      caas openstack demo -- server create --flavor m1.tiny --image cirros --network none one

    \b
    Exit status:
      the client's own; 125 where the fault is ours (no such cluster, no answer)
    """
    start = pb.CoordinatorExecInput.Start(name=name, argv=_without_dashes(arguments), openstack=True)
    sys.exit(run_streaming(coordinator, start))


@click.command(short_help="Print a cluster's credentials.")
@NAME
@click.option("--clouds-yaml", is_flag=True, help="As a clouds.yaml instead of shell variables.")
@click.option("--public", is_flag=True, help="For outside: where the cluster's file says publish: api.")
@click.option("--output", "-o", type=click.Path(), help="Write this file instead, readable by its owner only.")
@with_coordinator
def openrc(coordinator: Coordinator, name: str, clouds_yaml: bool, public: bool, output: str | None) -> None:
    """Print the administrator's credentials of the cluster NAME, for wherever its network is reachable.

    The first line says from where that is. In the lab that is inside its namespaces only; `caas openstack` needs none
    of this. With --public they are for wherever NATBox's uplink is reachable, if the cluster's file says so.

    \b
    Example:
      eval "$(caas openrc demo)"
      caas openrc demo --public > demo.rc
      caas openrc demo --clouds-yaml --output ~/.config/openstack/clouds.yaml

    \b
    Exit status:
      0  done
      1  there is no such cluster, or the coordinator does not answer
      2  the file cannot be written, or the cluster's API is not published
    """
    form = "clouds.yaml" if clouds_yaml else "openrc"
    document = coordinator.credentials(pb.CredentialsRequest(name=name, format=form, public=public))
    if output:
        _write_private(Path(output), document["text"])
    else:
        click.echo(document["text"], nl=not document["text"].endswith("\n"))
    if where := document.get("reachable_from"):
        click.echo(f"note: reachable from {where}", err=True)


def _write_private(path: Path, text: str) -> None:
    """A file of mode 0600 from its first byte on, replaced as a whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise invalid(f"{path}: {exc.strerror}", hint="choose a place that can be written") from exc
