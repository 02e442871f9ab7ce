"""Options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.cli.client import GrpcCoordinator, find_address
from coordinator.config import find_settings, parse_distributions

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.argument("file", type=click.Path())
NAME = click.argument("name")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
DISTRIBUTION = click.option(
    "--distribution",
    "distributions",
    multiple=True,
    metavar="NAME=IMAGE",
    help="What to make the containers of, where a Rally file says NAME: ubuntu=debian:bookworm.",
)
CONFIG = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="CAAS_CONFIG",
    help="Configuration file, for `distributions`.  [default: $CAAS_CONFIG, or /etc/caas/config.yaml]",
)
FILE_NAME = click.option("--name", default="", metavar="NAME", help="The cluster's name, for a file that gives none.")


def with_coordinator(command: F) -> F:
    """Give *command* the options that say where the coordinator is, and pass it a client that is closed after it."""

    @click.option(
        "--coordinator",
        default="",
        metavar="ADDRESS",
        help="Where the coordinator listens: a socket's path, or HOST:PORT.  [default: $CAAS_COORDINATOR]",
    )
    @click.option("--lab", default="", metavar="LAB", help="Use the coordinator of this lab.  [default: $CAAS_LAB]")
    @functools.wraps(command)
    def wrapped(*args: Any, coordinator: str, lab: str, **options: Any) -> Any:
        if coordinator and lab:
            raise click.UsageError("--coordinator and --lab both say where the coordinator is: give one of them")
        with GrpcCoordinator(find_address(os.environ, coordinator=coordinator, lab=lab)) as client:
            return command(client, *args, **options)

    return wrapped  # type: ignore[return-value]


def choose_distributions(words: tuple[str, ...], config: Path | None) -> dict[str, str]:
    """What --distribution says, and where it says nothing the configuration file."""
    return {**find_settings(config).distributions, **parse_distributions(words)}
