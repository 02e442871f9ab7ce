"""`python -m tests.support.killing`: a campaign and its table, whole or in parts (`--help`)."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from types import FrameType

from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from tests.support.demonstration import ROOT
from tests.support.killing.campaign import Campaign
from tests.support.killing.coordinator import SMALL
from tests.support.killing.lab import KillLab
from tests.support.killing.nova import NovaCampaign
from tests.support.killing.table import Kill, Row, Table, is_whole, spread, write_table

TABLE = ROOT / "build" / "kills.txt"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130


def main() -> int:
    """0 where every kill was resumed and left nothing (table.is_whole), else 1; 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.killing", description="A campaign and its table.")
    parser.add_argument("--kills", choices=("all", "sample"), default="all", help="every step (all), or some")
    parser.add_argument("--nova", choices=("yes", "no", "only"), default="yes", help="with nova's steps (yes)")
    parser.add_argument("--only", type=re.compile, default="", metavar="REGEX", help='such as "^down agent.*bridge"')
    parser.add_argument("--resume", action="store_true", help="go on with the table: what went well is not done again")
    parser.add_argument("--table", type=Path, default=TABLE, help=f"where the table goes ({TABLE})")
    options = parser.parse_args()
    table = Table.go_on(options.table) if options.resume else Table(options.table)
    for number in SIGNALS:
        signal.signal(number, _end)
    try:
        with contextlib.closing(_play(options, table)) as rows:
            for row in rows:
                table.add(row)
                print(write_table([row]).splitlines()[1], flush=True)
    except KeyboardInterrupt:
        print(f"\n{write_table(table.rows)}\n\ninterrupted: --resume goes on")
        return INTERRUPTED
    print(f"\n{write_table(table.rows)}")
    return 0 if is_whole(table.rows) else 1


def _end(number: int, frame: FrameType | None) -> None:
    """Once: what comes while the lab is taken down is ignored, for that is what was asked for."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _play(options: argparse.Namespace, table: Table) -> Generator[Row, None, None]:
    def chosen(kills: Iterable[Kill]) -> list[Kill]:
        found = [kill for kill in kills if not options.only or options.only.search(str(kill))]
        left = table.without_those_done(found)
        print(f"{len(found)} kills, {len(left)} of them to do", flush=True)
        return left

    logs = options.table.with_suffix("")
    if options.nova != "only":
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images")
            build_image(ImageStore(images), SMALL)
            with KillLab(f"kill{os.getpid()}", images=images) as lab:
                campaign = Campaign(lab, Path(folder), logs)
                campaign.count()
                kills = campaign.all_kills() if options.kills == "all" else campaign.sample()
                yield from campaign.play(spread(chosen(kills)))
    if options.nova != "no":
        with KillLab(f"kill{os.getpid()}") as lab:
            nova = NovaCampaign(lab, logs)
            steps = nova.kills()
            yield from nova.play(chosen(steps if options.kills == "all" else steps[:: len(steps) // 12]))


if __name__ == "__main__":
    sys.exit(main())
