"""YAML text as a tree that knows its places.

Built from the parser's events, with an explicit stack: neither deep nesting nor aliases within aliases can exhaust
the interpreter. Scalars stay text, for what is wanted where they stand decides how they are read: `no` and `010`
are names where a name is wanted. Anchors, aliases and merge keys (`<<`) are understood; tags are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from coordinator.config.problem import Place, Report

#: A file of 64,000 containers, one line each, has 6 MB.
SIZE_MAX = 32 * 1024 * 1024
DEPTH_MAX = 32
MERGED_MAX = 1_000_000
_CORE_TAG = "tag:yaml.org,2002:"
START = Place(1, 1)
WHOLE = Place(0, 0)
#: What libyaml says of `{to: ubuntu011:8774}`, which YAML 1.2 allows and ruamel's own parser, ten times slower, reads.
_COLON = "found unexpected ':'"


@dataclass(slots=True)
class Scalar:
    """Text. `plain` is False where it was quoted: a quoted 5 is no number."""

    text: str
    plain: bool
    place: Place


@dataclass(slots=True)
class Entry:
    """A key of a mapping, with its place, and what it leads to."""

    key: str
    place: Place
    node: Node


@dataclass(slots=True)
class Mapping:
    """Keys in the file's order."""

    place: Place
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Sequence:
    """Items in the file's order."""

    place: Place
    items: list[Node] = field(default_factory=list)


Node = Scalar | Mapping | Sequence


def describe(node: Node) -> str:
    """What *node* is, for "found …": a quoted value, a list, a mapping, nothing."""
    match node:
        case Mapping():
            return "a mapping"
        case Sequence():
            return "a list"
        case Scalar(text=text, plain=True) if text in ("", "~", "null"):
            return "nothing"
        case Scalar(text=text):
            return repr(text if len(text) <= 60 else text[:57] + "…")


def is_nothing(node: Node) -> bool:
    """Whether *node* is an empty value: `key:`, `~` or `null`."""
    return isinstance(node, Scalar) and node.plain and node.text in ("", "~", "null")


def read_tree(data: bytes, report: Report) -> Node | None:
    """The tree in *data*. None, with the reasons in *report*, where there is none to be had."""
    text = decode_text(data, report)
    if text is None:
        return None
    try:
        return _read_text(text, report, pure=False)
    except MarkedYAMLError as exc:
        if exc.problem != _COLON:
            _report_syntax(exc, text, report)
            return None
    try:
        return _read_text(text, report, pure=True)
    except MarkedYAMLError as exc:
        _report_syntax(exc, text, report)
        return None


def _read_text(text: str, report: Report, *, pure: bool) -> Node | None:
    builder = _Builder(report)
    try:
        for event in _events(text, pure=pure):
            if not builder.take(event):
                return None
    except MarkedYAMLError:
        raise
    except YAMLError as exc:
        report.add(WHOLE, "", f"not YAML: {' '.join(str(exc).split())}")
        return None
    if builder.root is None or is_nothing(builder.root):
        report.add(START, "", "the file is empty", hint="see examples/demo.yaml")
        return None
    return builder.root


def _events(text: str, *, pure: bool) -> Iterator[Event]:
    yield from YAML(typ="safe", pure=pure).parse(text)


def decode_text(data: bytes, report: Report) -> str | None:
    """*data* as text; None, with the reason in *report*, where it is too large or not UTF-8 text."""
    if len(data) > SIZE_MAX:
        report.add(WHOLE, "", f"{len(data)} bytes: a cluster file has at most {SIZE_MAX}")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        report.add(Place(line, 1), "", "not a text file: a byte that is not UTF-8", hint="save it as UTF-8")
        return None
    for index, char in enumerate(text):
        if char < " " and char not in "\t\n\r":
            report.add(Place(text.count("\n", 0, index) + 1, 1), "", f"not a text file: a control character {char!r}")
            return None
    return text


def _report_syntax(exc: MarkedYAMLError, text: str, report: Report) -> None:
    mark = exc.problem_mark or exc.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else WHOLE
    said = exc.problem or "a syntax error"
    if exc.context:
        said = f"{said} ({exc.context})"
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    tab = "\t" in line[: len(line) - len(line.lstrip())]
    hint = "indent with blanks: YAML allows no tabs there" if tab else ""
    report.add(place, "", f"not YAML: {said}", hint=hint)


@dataclass(slots=True)
class _Level:
    """A mapping or list that is being read: the key it stands under, its own key that waits for a value, and what
    stands under its merge keys."""

    node: Mapping | Sequence
    name: str
    key: Scalar | None = None
    bases: list[Node] = field(default_factory=list)


class _Builder:
    """Takes events one by one; `root` is the first document's tree."""

    def __init__(self, report: Report) -> None:
        self.root: Node | None = None
        self._report = report
        self._open: list[_Level] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._merged = 0

    def take(self, event: Event) -> bool:
        """False where there is no use in reading on."""
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        match event:
            case DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._add(place, "a second document: a file holds one cluster", hint="split the file")
                    return False
            case AliasEvent():
                return self._alias(event.anchor, place)
            case ScalarEvent():
                self._check_tag(event.tag, place)
                node = Scalar(event.value, bool(event.implicit[0]), place)
                self._anchor(event.anchor, node)
                return self._put(node)
            case MappingStartEvent() | SequenceStartEvent():
                return self._begin(event, place)
            case MappingEndEvent() | SequenceEndEvent():
                return self._end(self._open.pop())
        return True

    def _add(self, place: Place, message: str, *, hint: str = "") -> None:
        path = ".".join(level.name for level in self._open if level.name)
        self._report.add(place, path, message, hint=hint)

    def _begin(self, event: MappingStartEvent | SequenceStartEvent, place: Place) -> bool:
        self._check_tag(event.tag, place)
        node = Mapping(place) if isinstance(event, MappingStartEvent) else Sequence(place)
        name = self._open[-1].key.text if self._open and self._open[-1].key else ""
        if not self._put(node):
            return False
        self._anchor(event.anchor, node)
        self._open.append(_Level(node, name))
        if len(self._open) > DEPTH_MAX:
            self._report.add(place, "", f"nested more than {DEPTH_MAX} deep")
            return False
        return True

    def _anchor(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _alias(self, anchor: str, place: Place) -> bool:
        node = self._anchors.get(anchor)
        if node is None or any(node is level.node for level in self._open):
            why = "no anchor of that name before it" if node is None else "it contains itself"
            self._add(place, f"alias *{anchor}: {why}")
            return False
        return self._put(node if not isinstance(node, Scalar) else Scalar(node.text, node.plain, place))

    def _check_tag(self, tag: str | None, place: Place) -> None:
        if tag and tag != "!" and not tag.startswith(_CORE_TAG):
            self._add(place, f"tag {tag}: tags mean nothing here", hint="remove it")

    def _put(self, node: Node) -> bool:
        if not self._open:
            if self.root is None:
                self.root = node
            return True
        level = self._open[-1]
        if isinstance(level.node, Sequence):
            level.node.items.append(node)
            return True
        if level.key is None:
            return self._take_key(level, node)
        key, level.key = level.key, None
        if key.text == "<<" and key.plain:
            level.bases.append(node)
            return True
        self._set(level.node, key, node)
        return True

    def _take_key(self, level: _Level, node: Node) -> bool:
        if isinstance(node, Scalar) and not is_nothing(node):
            level.key = node
            return True
        self._add(node.place, f"a key must be text, found {describe(node)}")
        return False

    def _set(self, parent: Mapping, key: Scalar, node: Node) -> None:
        first = parent.entries.get(key.text)
        if first is None:
            parent.entries[key.text] = Entry(key.text, key.place, node)
        else:
            message = f"{key.text!r} is there twice, first in line {first.place.line}"
            self._add(key.place, message, hint="keep one of them, or rename one")

    def _end(self, level: _Level) -> bool:
        """Bases are merged at the end: a list of them is not complete when its key is read."""
        return not isinstance(level.node, Mapping) or all(self._merge(level.node, base) for base in level.bases)

    def _merge(self, parent: Mapping, node: Node) -> bool:
        """`<<: *base`: the keys of base that *parent* does not have itself (YAML's merge key, type draft 2005)."""
        for base in node.items if isinstance(node, Sequence) else [node]:
            if not isinstance(base, Mapping):
                self._add(base.place, f"<< merges mappings, found {describe(base)}")
                return True
            self._merged += len(base.entries)
            if self._merged > MERGED_MAX:
                self._add(node.place, f"<<: more than {MERGED_MAX} keys merged in all")
                return False
            for key, entry in base.entries.items():
                parent.entries.setdefault(key, entry)
        return True
