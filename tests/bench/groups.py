"""Which figures there are, in the order of the table, and which are measured together."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figure import Figure

#: Each has FIGURES, and measure(wanted, folder), which yields them.
MODULES = (
    "cluster",
    "scale",
    "containers",
    "verify",
    "compiling",
    "vlan",
    "ipip",
    "natbox",
    "natbox_flat",
    "natbox_add",
)
Measure = Callable[[frozenset[str], Path], Iterator[Figure]]


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together."""

    names: tuple[str, ...]
    measure: Measure


def load_groups() -> tuple[Group, ...]:
    """Every group."""
    loaded = [importlib.import_module(f"tests.bench.{name}") for name in MODULES]
    return tuple(Group(module.FIGURES, module.measure) for module in loaded)
