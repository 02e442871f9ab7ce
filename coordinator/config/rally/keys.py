"""One object of a deployment file: its kind, and its keys read one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from coordinator.config import tree
from coordinator.config.problem import Place, nearest, suggest
from coordinator.config.rally.notes import Notes

_INTEGER = re.compile(r"-?[0-9]{1,18}")
#: Older spellings of kinds.
_RENAMED = {"DummyProvider": "ExistingServers", "DummyEngine": "ExistingCloud"}


class Keys:
    """The keys of the object at *path*. What is unknown is a mistake where it is nearly a known key, else a warning.

    *idle* has keys that were known once and have no effect, and why.
    """

    def __init__(
        self,
        node: tree.Mapping,
        path: str,
        notes: Notes,
        *,
        known: Sequence[str],
        idle: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.place = node.place
        self.notes = notes
        self._entries = node.entries
        self._meant: set[str] = set()
        for key, entry in node.entries.items():
            if idle and key in idle:
                notes.warn(entry.place, self.at(key), f"it has no effect: {idle[key]}")
            elif key not in known:
                self._unknown(key, entry.place, known)

    def _unknown(self, key: str, place: Place, known: Sequence[str]) -> None:
        near = nearest(key, known)
        if near:
            self._meant.add(near)
            self.notes.wrong(place, self.at(key), f"unknown key {key!r}", hint=f"did you mean {near!r}?")
        else:
            self.notes.warn(place, self.at(key), f"unknown key {key!r}: it has no effect")

    def at(self, key: str) -> str:
        """The path of *key*."""
        return f"{self.path}.{key}" if self.path else key

    def node(self, key: str) -> tree.Node | None:
        """What *key* leads to."""
        entry = self._entries.get(key)
        return entry.node if entry else None

    def where(self, key: str) -> Place:
        """The place of *key*, or of the object."""
        entry = self._entries.get(key)
        return entry.place if entry else self.place

    def wrong(self, key: str, message: str, *, hint: str = "") -> None:
        """A mistake in the value of *key*."""
        self.notes.wrong(self.where(key), self.at(key), message, hint=hint)

    def missing(self, key: str, hint: str) -> None:
        """*key* is needed and not there."""
        if key not in self._meant:
            self.notes.wrong(self.place, self.path, f"{key!r} is missing", hint=hint)

    def text(self, key: str, *, needed: str = "") -> str | None:
        """A string. With *needed*, it must be there: that is the hint."""
        node = self.node(key)
        if node is None:
            if needed:
                self.missing(key, needed)
            return None
        if not isinstance(node, tree.Scalar) or node.plain or not node.text.strip():
            self.wrong(key, f"found {tree.describe(node)}", hint="a string is needed")
            return None
        return node.text

    def integer(self, key: str, lowest: int, highest: int) -> int | None:
        """A number within *lowest*..*highest*, or None."""
        node = self.node(key)
        if node is None:
            return None
        hint = f"a number within {lowest}..{highest} is needed"
        if not isinstance(node, tree.Scalar) or not node.plain or not _INTEGER.fullmatch(node.text):
            self.wrong(key, f"found {tree.describe(node)}", hint=hint)
            return None
        if not lowest <= int(node.text) <= highest:
            self.wrong(key, f"{node.text}: it must be within {lowest}..{highest}", hint=hint)
            return None
        return int(node.text)

    def flag(self, key: str) -> bool:
        """true or false; false where it is not there."""
        node = self.node(key)
        if node is None:
            return False
        if not isinstance(node, tree.Scalar) or not node.plain or node.text not in ("true", "false"):
            self.wrong(key, f"found {tree.describe(node)}", hint="true or false is needed")
            return False
        return node.text == "true"

    def items(self, key: str, *, needed: str = "") -> list[tree.Node]:
        """The items of a list; empty where there is none."""
        node = self.node(key)
        if node is None:
            if needed:
                self.missing(key, needed)
            return []
        if not isinstance(node, tree.Sequence):
            self.wrong(key, f"found {tree.describe(node)}", hint="a list is needed")
            return []
        return node.items

    def child(self, key: str, *, needed: str = "") -> tree.Mapping | None:
        """An object, or None."""
        node = self.node(key)
        if node is None:
            if needed:
                self.missing(key, needed)
            return None
        if not isinstance(node, tree.Mapping):
            self.wrong(key, f"found {tree.describe(node)}", hint="an object is needed")
            return None
        return node


def kind_of(node: tree.Node, path: str, notes: Notes, *, allowed: Sequence[str], refused: Mapping[str, str]) -> str:
    """The kind of the object *node*: one of *allowed*, or "" after saying what is wrong.

    It stands under `type`, or `name` before April 2014; where both are there, `type` counts. *refused* has kinds
    that nothing can be made of, and why.
    """
    if not isinstance(node, tree.Mapping):
        notes.wrong(node.place, path, f"found {tree.describe(node)}", hint=f"an object is needed: {_shown(allowed)}")
        return ""
    entry = node.entries.get("type") or node.entries.get("name")
    if entry is None:
        notes.wrong(node.place, path, "'type' is missing", hint=_shown(allowed))
        return ""
    at = f"{path}.{entry.key}" if path else entry.key
    if not isinstance(entry.node, tree.Scalar) or entry.node.plain:
        notes.wrong(entry.place, at, f"found {tree.describe(entry.node)}", hint=_shown(allowed))
        return ""
    kind = _RENAMED.get(entry.node.text, entry.node.text)
    if kind in refused:
        notes.wrong(entry.place, at, f"{entry.node.text}: {refused[kind]}")
        return ""
    if kind not in allowed:
        by_lower = {name.lower(): name for name in (*allowed, *_RENAMED)}
        near = by_lower.get(nearest(kind, by_lower), "")
        hint = f"did you mean {near!r}?" if near else suggest(kind, allowed)
        notes.wrong(entry.place, at, f"unknown type {entry.node.text!r}", hint=hint)
        return ""
    _check_name(node, kind, path, notes)
    return kind


def _check_name(node: tree.Mapping, kind: str, path: str, notes: Notes) -> None:
    """A `name` beside `type` says the same, or nothing that matters."""
    name = node.entries.get("name")
    if "type" not in node.entries or name is None:
        return
    same = isinstance(name.node, tree.Scalar) and _RENAMED.get(name.node.text, name.node.text) == kind
    if not same:
        notes.warn(name.place, f"{path}.name" if path else "name", f"it has no effect: type says {kind}")


def _shown(allowed: Sequence[str]) -> str:
    return f"type is one of {', '.join(allowed)}" if allowed[1:] else f"type is {allowed[0]}"
