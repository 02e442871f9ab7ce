"""`python -m tests.support.killing [--kills all|sample] [--nova yes|no] [--table FILE]`: a campaign and its table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.containers.image import ImageStore
from agent.containers.image_build import build_image
from tests.support.demonstration import ROOT
from tests.support.killing.campaign import Campaign, Row, write_table
from tests.support.killing.coordinator import SMALL
from tests.support.killing.lab import KillLab
from tests.support.killing.nova import NovaCampaign

TABLE = ROOT / "build" / "kills.txt"


def main() -> int:
    """0 where every kill was reached and resumed and left nothing, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.killing", description=__doc__)
    parser.add_argument("--kills", choices=("all", "sample"), default="all", help="every step (all), or some")
    parser.add_argument("--nova", choices=("yes", "no"), default="yes", help="with nova's steps (yes)")
    parser.add_argument("--table", type=Path, default=TABLE, help=f"where the table goes ({TABLE})")
    options = parser.parse_args()
    rows: list[Row] = []
    options.table.parent.mkdir(parents=True, exist_ok=True)
    for row in _play(options):
        rows.append(row)
        print(write_table([row]).splitlines()[1], flush=True)
        options.table.write_text(f"{write_table(rows)}\n")
    print(f"\n{write_table(rows)}")
    return 0 if all(row.is_well for row in rows) else 1


def _play(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        build_image(ImageStore(images), SMALL)
        with KillLab(f"kill{os.getpid()}", images=images) as lab:
            campaign = Campaign(lab, Path(folder))
            campaign.count()
            yield from campaign.play(campaign.all_kills() if options.kills == "all" else campaign.sample())
    if options.nova == "yes":
        with KillLab(f"kill{os.getpid()}") as lab:
            nova = NovaCampaign(lab)
            steps = nova.steps()
            yield from nova.play(nova.kills(steps if options.kills == "all" else steps[:: len(steps) // 3]))


if __name__ == "__main__":
    sys.exit(main())
