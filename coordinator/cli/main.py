"""`caas`: the commands, each imported when it is used, and what a failure becomes: an exit status and two lines."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from coordinator.cli.output import print_error
from coordinator.config.problem import suggest
from proto.errors import CaasError

#: Where each command is: module and attribute. The order is the one in which people use them.
COMMANDS = {
    "lab": ("coordinator.lab.commands", "lab"),
    "image": ("coordinator.cli.images", "image"),
    "check": ("coordinator.cli.files", "check"),
    "compile": ("coordinator.cli.files", "compile_command"),
    "plan": ("coordinator.cli.work", "plan"),
    "up": ("coordinator.cli.work", "up"),
    "status": ("coordinator.cli.look", "status"),
    "natbox": ("coordinator.cli.natbox", "natbox"),
    "doctor": ("coordinator.cli.doctor", "doctor"),
    "verify": ("coordinator.cli.look", "verify"),
    "test": ("coordinator.cli.look", "test"),
    "exec": ("coordinator.cli.inside", "exec_command"),
    "openstack": ("coordinator.cli.inside", "openstack"),
    "openrc": ("coordinator.cli.inside", "openrc"),
    "logs": ("coordinator.cli.look", "logs"),
    "down": ("coordinator.cli.work", "down"),
}
INTERRUPTED = 130
FAULT_IS_OURS = 125
#: These return the status of the command they run, so a failure of ours needs one of its own.
_RUN_COMMANDS = ("exec", "openstack")


class Commands(click.Group):
    """A group whose commands are imported on use, and whose failures are told as `error:` and `hint:`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}; {suggest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CaasError as error:
            print_error(error)
            ctx.exit(FAULT_IS_OURS if ctx.invoked_subcommand in _RUN_COMMANDS else error.code.exit_status)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as fault:
            if os.environ.get("CAAS_DEBUG"):
                raise
            click.echo(f"error: {type(fault).__name__}: {fault}", err=True)
            click.echo("hint: this is a fault in caas; CAAS_DEBUG=1 shows where", err=True)
            ctx.exit(FAULT_IS_OURS if ctx.invoked_subcommand in _RUN_COMMANDS else 1)


def _version() -> str:
    try:
        return version("caas")
    except PackageNotFoundError:
        return "unknown (not installed)"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(_version(), prog_name="caas", message="%(prog)s %(version)s")
def cli() -> None:
    """Cluster as a Service: real OpenStack nova clusters in LXC containers.

    A cluster is described in a YAML file. `caas plan FILE` says what bringing it up would do, `caas up FILE` does it,
    and after a change of the file the same two do only what has become necessary. On one machine, begin with
    `caas lab up`, which simulates the physical hosts.

    \b
    Example:
      caas lab up
      caas up examples/demo.yaml
      caas openstack demo -- server list
      caas down demo

    \b
    Exit status:
      0    done
      1    it failed, or a host refused before anything was changed
      2    the file or the call is wrong; nothing was changed
      125  exec and openstack only: the fault is ours, not the command's
      130  interrupted

    \b
    Environment:
      CAAS_COORDINATOR  where the coordinator listens: a socket's path (/run/caas/coordinator.sock
                        without it), or HOST:PORT
      CAAS_TLS          for HOST:PORT: the folder of ca.pem, cert.pem and key.pem
      CAAS_LAB          the lab whose coordinator is meant
      CAAS_DEBUG        show where a fault in caas itself happened

    Completion: eval "$(_CAAS_COMPLETE=bash_source caas)"
    """


def main() -> None:
    """Entry point of the console script."""
    try:
        cli(prog_name="caas")
    except BrokenPipeError:
        # The reader of our output went away (`caas status | head`): say nothing, not even while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
