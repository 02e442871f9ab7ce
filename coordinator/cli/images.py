"""`caas image`: images are an agent's business, so its own module is run, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from coordinator.cli.options import JSON

MODULE = "agent.containers.images_cli"


@click.group(short_help="Build and list container images.")
def image() -> None:
    """Container images: root file systems made from declarations, cached by what is in them.

    They are kept under /var/lib/caas/images/NAME/DIGEST and hold no secret: clusters share images, and nothing else.
    """


@image.command(short_help="Build images that are not built yet.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--images", type=click.Path(), help="Where images are kept.  [default: /var/lib/caas/images]")
@JSON
def build(names: tuple[str, ...], images: str | None, as_json: bool) -> None:
    """Build the image of each declaration NAME. One whose declaration has not changed since is left alone.

    A build that is cut off leaves nothing behind. It needs root, and the network of the distribution's mirror.

    \b
    Example:
      caas image build nova-controller nova-compute

    \b
    Exit status:
      0  they are there
      1  a build failed, or there is no such declaration
      2  a declaration or the call is wrong
    """
    sys.exit(_run(["build", *_options(images, as_json), "--", *names]))


@image.command("list", short_help="List declared images and every build.")
@click.option("--images", type=click.Path(), help="Where images are kept.  [default: /var/lib/caas/images]")
@JSON
def list_command(images: str | None, as_json: bool) -> None:
    """List what is declared and what is built. A new container gets the build marked current.

    \b
    Example:
      caas image list

    \b
    Exit status:
      0  done
    """
    sys.exit(_run(["list", *_options(images, as_json)]))


def _options(images: str | None, as_json: bool) -> list[str]:
    return [*(["--images", images] if images else []), *(["--json"] if as_json else [])]


def _run(arguments: Sequence[str]) -> int:
    """The module's exit status. It gets an interrupt from the terminal itself, and is waited for."""
    root = Path(__file__).resolve().parents[2]
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; runpy.run_module(%r, run_name='__main__')"
    command = [sys.executable, "-c", program % MODULE, str(root), *arguments]
    sys.stdout.flush()
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
