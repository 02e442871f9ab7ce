"""JSON text (RFC 8259) as the tree that YAML text gives, with places. What is not JSON is said with its line."""

from __future__ import annotations

import bisect
import json
import re
from typing import Any, NoReturn

from coordinator.config.problem import Place, Report
from coordinator.config.tree import DEPTH_MAX, START, Entry, Mapping, Node, Scalar, Sequence, decode_text

_BLANK = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_OTHER = re.compile(r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)(?![\w.])")


def read_json(data: bytes, report: Report) -> Node | None:
    """The tree in *data*. None, with the reason in *report*, where it is not JSON.

    Numbers, true, false and null are plain scalars with the text that stands there; strings are not plain.
    """
    text = decode_text(data, report)
    if text is None:
        return None
    if not text.strip():
        report.add(START, "", "the file is empty")
        return None
    try:
        return _Reader(text, report).read()
    except _NotJsonError:
        return None


def to_python(node: Node) -> Any:
    """What Python's json module would have made of *node*."""
    match node:
        case Mapping():
            return {key: to_python(entry.node) for key, entry in node.entries.items()}
        case Sequence():
            return [to_python(item) for item in node.items]
        case Scalar(plain=True):
            return json.loads(node.text)
        case Scalar():
            return node.text


class _NotJsonError(Exception):
    """It was reported."""


class _Reader:
    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report
        self._at = 0
        self._path: list[str] = []
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def read(self) -> Node:
        self._skip()
        node = self._value()
        self._skip()
        if self._at < len(self._text):
            self._fail("something follows the end of the document", hint="a file holds one JSON object")
        return node

    def _place(self) -> Place:
        line = bisect.bisect_right(self._starts, self._at)
        return Place(line, self._at - self._starts[line - 1] + 1)

    def _fail(self, message: str, *, hint: str = "") -> NoReturn:
        self._report.add(self._place(), ".".join(self._path), f"not JSON: {message}", hint=hint)
        raise _NotJsonError

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _value(self) -> Node:
        if len(self._path) > DEPTH_MAX:
            self._fail(f"nested more than {DEPTH_MAX} deep")
        match self._next():
            case "{":
                return self._mapping()
            case "[":
                return self._sequence()
        place = self._place()
        if self._next() == '"':
            return Scalar(self._string(), False, place)
        match = _OTHER.match(self._text, self._at)
        if match is None:
            self._fail(f"a value is needed, found {self._shown()}", hint=self._hint())
        self._at = match.end()
        return Scalar(match.group(), True, place)

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        if match is None:
            self._fail("a string without its end, or with something in it that must be written with a backslash")
        self._at = match.end()
        found = json.loads(match.group())
        assert isinstance(found, str)
        return found

    def _mapping(self) -> Mapping:
        node = Mapping(self._place())
        self._at += 1
        self._skip()
        while self._next() != "}":
            place = self._place()
            if self._next() != '"':
                self._fail(f"a key in double quotes is needed, found {self._shown()}", hint=self._hint())
            key = self._string()
            self._skip()
            if self._next() != ":":
                self._fail(f"':' is needed after {key!r}, found {self._shown()}")
            self._at += 1
            self._skip()
            self._path.append(key)
            value = self._value()
            self._path.pop()
            self._set(node, Entry(key, place, value))
            self._separator("}")
        self._at += 1
        return node

    def _set(self, node: Mapping, entry: Entry) -> None:
        first = node.entries.setdefault(entry.key, entry)
        if first is not entry:
            path = ".".join([*self._path, entry.key])
            message = f"{entry.key!r} is there twice, first in line {first.place.line}"
            self._report.add(entry.place, path, message, hint="keep one of them")

    def _sequence(self) -> Sequence:
        node = Sequence(self._place())
        self._at += 1
        self._skip()
        while self._next() != "]":
            self._path.append(str(len(node.items)))
            node.items.append(self._value())
            self._path.pop()
            self._separator("]")
        self._at += 1
        return node

    def _separator(self, end: str) -> None:
        """A comma and what follows it, or nothing before *end*."""
        self._skip()
        if self._next() == end:
            return
        if self._next() != ",":
            self._fail(f"',' or '{end}' is needed, found {self._shown()}", hint=self._hint())
        comma = self._at
        self._at += 1
        self._skip()
        if self._next() == end:
            self._at = comma
            self._fail(f"a comma before '{end}'", hint="remove it")

    def _shown(self) -> str:
        return repr(self._next()) if self._next() else "the end of the file"

    def _hint(self) -> str:
        if self._text.startswith(("//", "/*", "#"), self._at):
            return "JSON has no comments"
        if self._next() == "'":
            return 'write "…"'
        return ""
