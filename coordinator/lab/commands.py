"""The commands `caas lab up|down|status`. Progress and errors go to standard error, results to standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from coordinator.lab.lab import Lab
from coordinator.lab.places import DEFAULT_LAB, DEFAULT_SOCKET, Places
from coordinator.lab.status import LabStatus, observe

NAME = click.option("--name", default=DEFAULT_LAB, show_default=True, metavar="LAB", help="The lab's name.")


@click.group()
def lab() -> None:
    """Physical hosts on one machine: network namespaces, joined by switches.

    Each host has its own agent, NATBox its daemon, and the coordinator runs on host1. `ip netns` lists the
    namespaces, LAB-host1 and so on; nothing is created in the machine's own. Several labs can be up at once.
    """


@lab.command()
@click.argument("topology", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@NAME
def up(topology: Path | None, name: str) -> None:
    """Bring a lab up, or complete one that was interrupted.

    Without a TOPOLOGY file: host1 (192.168.2.25), host2 (.26), natbox (.24) and outside (203.0.113.254), with a
    management switch and a trunk. What is there already stays as it is and is not restarted.
    """
    places = Places(name)
    Lab(places, _say).up(topology)
    _say(f"lab {name} is up; its coordinator: {places.socket}")
    if places.socket != DEFAULT_SOCKET:
        _say(f"for this lab: export CAAS_COORDINATOR={places.socket}")


@lab.command()
@NAME
def down(name: str) -> None:
    """Remove a lab: containers, processes, namespaces, folders. A lab that is not there is no error."""
    removed = Lab(Places(name), _say).down()
    _say(f"lab {name} is down" if removed else f"there is no lab {name}")


@lab.command()
@NAME
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def status(name: str, as_json: bool) -> None:
    """Show a lab's machines: namespace, the pid of the daemon (0: none runs), addresses."""
    seen = observe(Places(name))
    if as_json:
        click.echo(json.dumps(seen.document(), indent=2))
    elif not seen.machines:
        click.echo(f"there is no lab {name}")
    else:
        _print_table(seen)


def _print_table(seen: LabStatus) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("MACHINE", "ROLE", "NAMESPACE", "PID", "ADDRESSES"):
        table.add_column(title, no_wrap=title != "ADDRESSES")
    for machine in seen.machines:
        addresses = ", ".join(f"{address} on {link}" for link, address in machine.addresses)
        pid = str(machine.pid or ("-" if machine.role not in ("host", "natbox") else "none runs"))
        table.add_row(machine.name, machine.role, machine.namespace, pid, addresses)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    who = f"pid {seen.coordinator_pid}" if seen.coordinator_pid else "not running"
    click.echo(f"coordinator: {seen.coordinator} ({who})")


def _say(line: str) -> None:
    click.echo(line, err=True)
