"""Writes the generated stubs: `python -m proto.generate`. With --check, says whether they are current.

The generator is the oldest supported grpcio-tools, pinned in setup.cfg: stubs refuse a runtime that is older
than their generator.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("types", "agent", "natbox", "coordinator")
SERVICES = ("agent", "natbox", "coordinator")


def generate(out: Path) -> dict[str, bytes]:
    """Generate every stub below *out*; file name below the root -> content."""
    from grpc_tools import protoc

    include = str(resources.files("grpc_tools") / "_proto")
    for source in SOURCES:
        arguments = ["protoc", f"-I{ROOT}", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}"]
        if source in SERVICES:
            arguments.append(f"--grpc_python_out={out}")
        if protoc.main([*arguments, f"proto/{source}.proto"]) != 0:
            raise SystemExit(f"protoc failed for proto/{source}.proto")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted((out / "proto").iterdir())}


def main() -> int:
    """Exit status 0: written, or current; 1: with --check, some stub is not current."""
    with tempfile.TemporaryDirectory() as folder:
        stubs = generate(Path(folder))
    if "--check" not in sys.argv[1:]:
        for name, content in stubs.items():
            (ROOT / name).write_bytes(content)
        return 0
    stale = [name for name, content in stubs.items() if not _is_current(ROOT / name, content)]
    for name in stale:
        print(f"{name} is not current: run `make proto`", file=sys.stderr)
    return 1 if stale else 0


def _is_current(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
