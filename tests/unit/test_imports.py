"""Who may import whom (docs/architecture.md). Read from the source, so that a rare path counts like a common one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("proto", "agent", "natbox", "coordinator")
#: Beside itself, a part may use these. `coordinator.lab` is a part of its own in this.
MAY_USE = {
    "proto": (),
    "agent": ("proto",),
    "natbox": ("proto", "agent.kernel"),
    "coordinator": ("proto",),
    "coordinator.lab": ("proto", "coordinator", "agent.kernel"),
}
#: Packages with one door each.
ONLY_BELOW = {
    "pyroute2": ("agent.kernel",),
    "lxc": ("agent.containers",),
    "scapy": ("tests",),
    "pytest": ("tests",),
    "hypothesis": ("tests",),
    "prometheus_client": ("natbox",),
}
#: Parts that are pure, or that must never share a process with gRPC (facts: liblxc).
WITHOUT = {
    "agent.core": ("grpc", "grpc_health", "pyroute2", "lxc", "socket", "subprocess"),
    "agent.containers": ("grpc", "grpc_health"),
    "agent.kernel": ("grpc", "grpc_health", "lxc"),
    "proto.model": ("grpc", "socket", "subprocess", "os", "pathlib"),
}
NO_PACKAGE_IS_CALLED = {"common", "utils", "helpers", "managers"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours by its dotted name, generated stubs left out."""
    for part in (*PARTS, "tests"):
        for path in sorted((ROOT / part).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                yield name, path


def imported(tree: ast.AST, module: str, *, is_package: bool) -> set[str]:
    """The dotted names that a module imports: `from a import b` counts as a.b, for b may be a module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                package = module.split(".") if is_package else module.split(".")[:-1]
                above = package[: len(package) + 1 - level] if level else []
                base = ".".join([*above, *([source] if source else [])])
                found.update(f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="__import__"),
                args=[ast.Constant(value=str(source)), *_],
            ):
                found.add(source)
    return found


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def part_of(module: str) -> str:
    return "coordinator.lab" if is_below(module, "coordinator.lab") else module.split(".")[0]


def faults_of(module: str, names: set[str]) -> list[str]:
    """What *module* must not import of *names*, each with the rule."""
    faults = []
    part = part_of(module)
    for name in sorted(names):
        top = name.split(".")[0]
        allowed = (part, *MAY_USE.get(part, PARTS))
        if top in PARTS and part != "tests" and not any(is_below(name, other) for other in allowed):
            faults.append(f"{module} imports {name}: {part} may use {', '.join(allowed)}")
        if top in ONLY_BELOW and not any(is_below(module, place) for place in (*ONLY_BELOW[top], "tests")):
            faults.append(f"{module} imports {name}: only below {', '.join(ONLY_BELOW[top])}")
        if top == "tests" and part != "tests":
            faults.append(f"{module} imports {name}: tests are for tests")
        for pure, without in WITHOUT.items():
            if is_below(module, pure) and top in without:
                faults.append(f"{module} imports {name}: {pure} does without")
    return faults


@pytest.mark.parametrize("part", [*PARTS, "tests"])
def test_every_import_is_allowed(part: str) -> None:
    ours = [(name, path) for name, path in modules() if is_below(name, part)]
    assert ours, f"no module below {part} was found"
    faults = []
    for name, path in ours:
        tree = ast.parse(path.read_bytes(), str(path))
        faults += faults_of(name, imported(tree, name, is_package=path.stem == "__init__"))
    assert not faults, "\n".join(faults)


def test_no_package_is_a_drawer_for_everything() -> None:
    called = {name for name, _ in modules() if NO_PACKAGE_IS_CALLED.intersection(name.split("."))}
    assert not called


@pytest.mark.parametrize(
    ("module", "source", "refused"),
    [
        ("coordinator.rpc.x", "from agent.kernel import netlink", True),
        ("coordinator.rpc.x", "import agent", True),
        ("coordinator.lab.x", "from agent.kernel.namespaces import call_in", False),
        ("coordinator.lab.x", "from agent.containers import door", True),
        ("coordinator.lab.x", "from coordinator.config import load", False),
        ("natbox.x", "from agent.kernel import nft", False),
        ("natbox.x", "from agent import kernel", False),
        ("natbox.x", "from agent import core", True),
        ("agent.core.x", "import pyroute2", True),
        ("agent.rpc.x", "def f():\n    from pyroute2 import IPRoute", True),
        ("agent.kernel.x", "from pyroute2.netlink.exceptions import NetlinkError", False),
        ("agent.core.x", "from ..containers import door", False),
        ("natbox.x", "import importlib\nimportlib.import_module('coordinator.cli')", True),
        ("agent.rpc.x", "import lxc", True),
        ("agent.containers.x", "import grpc.aio", True),
        ("proto.x", "from agent import core", True),
        ("agent.rpc.x", "import scapy.all", True),
        ("agent.rpc.x", "from tests.support import fakes", True),
    ],
)
def test_the_rules_see_what_they_are_for(module: str, source: str, refused: bool) -> None:
    assert bool(faults_of(module, imported(ast.parse(source), module, is_package=False))) is refused


@pytest.mark.parametrize(
    ("source", "module", "is_package", "wanted"),
    [
        ("from . import b", "agent.core.x", False, "agent.core.b"),
        ("from .y import b", "agent.core.x", False, "agent.core.y.b"),
        ("from ..kernel import b", "agent.core.x", False, "agent.kernel.b"),
        ("from . import b", "agent.core", True, "agent.core.b"),
        ("from ..kernel import b", "agent.core", True, "agent.kernel.b"),
    ],
)
def test_relative_imports_are_resolved(source: str, module: str, is_package: bool, wanted: str) -> None:
    assert imported(ast.parse(source), module, is_package=is_package) == {wanted}
