"""What commands print: documents and tables on standard output, errors and warnings on standard error."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from proto.errors import CaasError

Document = dict[str, Any]
#: Python indents twenty times slower than it writes lines: 200 MB would take longer than all that leads to them.
INDENTED_MAX = 1_000_000
#: Things that wait for one host; --json has them all.
PENDING_SHOWN = 8


def print_document(document: Document) -> None:
    """One JSON document on standard output, and nothing else. A large one, which nobody reads, is one line."""
    compact = json.dumps(document)
    click.echo(compact if len(compact) > INDENTED_MAX else json.dumps(document, indent=2))


def print_error(error: CaasError) -> None:
    """`error: …` and `hint: …` on standard error; several problems are lines of the message already."""
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def print_warning(text: str) -> None:
    """A line that begins with `warning:` on standard error."""
    click.echo(f"warning: {text}", err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, indent: str = "") -> None:
    """Columns as wide as their widest cell, never cut: what is printed can be searched and cut by programs."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(indent + line.rstrip())


def show_behind(behind: Mapping[str, Document]) -> None:
    """Who is behind: how far, since when and why, and what waits for it."""
    if behind:
        click.echo("\nbehind:")
    for host, one in behind.items():
        since = datetime.datetime.fromtimestamp(one["since"]).isoformat(" ", "seconds")
        has = f"generation {one['generation']}" if one["generation"] else "no generation"
        wanted = "nothing" if one["leaving"] else str(one["wanted"])
        click.echo(f"  {host}: {has}, {wanted} wanted, since {since}: {one['why']}")
        if pending := one["pending"]:
            more = f" and {len(pending) - PENDING_SHOWN} more" if len(pending) > PENDING_SHOWN else ""
            click.echo(f"    pending: {', '.join(pending[:PENDING_SHOWN])}{more}")


def show_size(count: int) -> str:
    """*count* bytes for people: 148 MiB."""
    return f"{count / (1 << 20):.0f} MiB" if count else "-"


def show_bytes(count: int) -> str:
    """*count* bytes for people, also few of them: 812 B, 1.2 KiB, 148.0 MiB."""
    number, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and units[1:]:
        number /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{number:.1f} {units[0]}"


def show_seconds(seconds: float) -> str:
    """A duration for people: 0.4 s, 36 s, 2 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
