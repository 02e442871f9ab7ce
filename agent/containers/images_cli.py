"""`python -m agent.containers.images_cli build NAME…|list`: images from the command line, without an agent.

With --json the answer is one document on standard output. Progress and errors go to standard error. Exit status:
0 done, 1 it failed, 2 the declaration or the call is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.containers.image import IMAGES, ImageBuild, ImageStore
from agent.containers.image_build import build_image
from agent.containers.image_declaration import DECLARATIONS
from proto.errors import CaasError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _make_parser().parse_args(argv)
    store = ImageStore(arguments.images.absolute(), arguments.declarations.absolute())
    try:
        return _build(store, arguments) if arguments.command == "build" else _list(store, arguments)
    except CaasError as exc:
        print(f"error: {exc.message}", file=sys.stderr)
        if exc.hint:
            print(f"hint: {exc.hint}", file=sys.stderr)
        return exc.code.exit_status
    except KeyboardInterrupt:
        print("interrupted; nothing half-made is left", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caas image", description="Container images, built from declarations.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build images; what is built already is left alone")
    build.add_argument("names", nargs="+", metavar="NAME", help="a declaration's name")
    listing = commands.add_parser("list", help="declared images and every build")
    for command in (build, listing):
        command.add_argument("--images", type=Path, default=IMAGES, help="where builds are kept (%(default)s)")
        command.add_argument("--declarations", type=Path, default=DECLARATIONS, help="folder of NAME.yaml")
        command.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def _build(store: ImageStore, arguments: argparse.Namespace) -> int:
    results = [build_image(store, name) for name in arguments.names]
    if arguments.json:
        print(json.dumps({"images": [{**_describe(one.build, current=True), "made": one.made} for one in results]}))
        return 0
    for result in results:
        print(f"{result.build.name} {result.build.digest} {'built' if result.made else 'unchanged'}")
    return 0


def _describe(build: ImageBuild, *, current: bool) -> dict[str, object]:
    return {
        "name": build.name,
        "digest": build.digest,
        "built": True,
        "current": current,
        "size_bytes": build.size_bytes,
        "seconds": build.seconds,
        "created": build.created,
        "packages": len(build.packages),
        "path": str(build.path),
    }


def list_images(store: ImageStore) -> list[dict[str, object]]:
    """Every build, newest first within a name, and each declared name that has no current build.

    Keys: name, digest ("" where nothing is built), built, current, size_bytes, seconds, created, packages, path.
    `current` is the build that a new container gets. A declaration that is wrong has an `error` instead.
    """
    rows: list[dict[str, object]] = []
    for name in store.names():
        builds = store.builds(name)
        error = ""
        try:
            wanted = store.wanted_digest(name) or (builds[0].digest if builds else "")
        except CaasError as exc:
            wanted, error = "", exc.message
        if not any(build.digest == wanted for build in builds):
            missing = {"name": name, "digest": wanted, "built": False, "current": not error}
            rows.append({**missing, "error": error} if error else missing)
        rows += [_describe(build, current=build.digest == wanted) for build in builds]
    return rows


def _list(store: ImageStore, arguments: argparse.Namespace) -> int:
    rows = list_images(store)
    if arguments.json:
        print(json.dumps({"images": rows}))
        return 0
    for row in rows:
        size = f"{int(str(row['size_bytes'])) / 1e6:,.0f} MB" if row["built"] else "-"
        state = "current" if row["current"] and row["built"] else "old" if row["built"] else "not built"
        print(f"{row['name']:24} {str(row['digest']) or '-':32}  {state:9}  {size:>9}  {row.get('error', '')}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
