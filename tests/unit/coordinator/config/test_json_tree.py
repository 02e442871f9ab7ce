"""JSON as a tree: the same values as Python's own reader, each with its line; what is not JSON is told with its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config.json_tree import read_json, to_python
from coordinator.config.problem import Report
from coordinator.config.tree import DEPTH_MAX, Mapping

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_it_reads_what_json_reads(value: object, indent: int | str | None, ascii_only: bool) -> None:
    report = Report("x.json")
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    if any(char < " " and char not in "\t\n\r" for char in text):
        return
    node = read_json(data, report)
    assert node is not None
    assert report.problems == []
    assert to_python(node) == value


@given(st.text(st.sampled_from('{}[]",:0-1.eE+truefalsn\\ \n'), max_size=30))
def test_it_takes_nothing_that_json_does_not_take(text: str) -> None:
    try:
        json.loads(text)
        valid = True
    except json.JSONDecodeError:
        valid = False
    report = Report("x.json")
    node = read_json(text.encode(), report)
    assert (node is not None) == valid
    assert valid or report.problems


def test_places_are_those_of_keys_and_values() -> None:
    node = read_json(b'{\n  "a": [\n    5,\n    {"b": "c"}\n  ]\n}', Report("x.json"))
    assert isinstance(node, Mapping)
    assert (node.entries["a"].place.line, node.entries["a"].place.column) == (2, 3)
    items = node.entries["a"].node.items  # type: ignore[union-attr]
    assert [(item.place.line, item.place.column) for item in items] == [(3, 5), (4, 5)]


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        ("", 1, "the file is empty", ""),
        ('{"a": 1,\n}', 1, "a comma before '}'", "remove it"),
        ("[1,\n 2,\n]", 2, "a comma before ']'", "remove it"),
        ('{"a" 1}', 1, "':' is needed after 'a', found '1'", ""),
        ("{'a': 1}", 1, "a key in double quotes is needed", 'write "…"'),
        ('{"a": 1}\n{}', 2, "something follows the end of the document", "a file holds one JSON object"),
        ('{"a":\n // b\n 1}', 2, "a value is needed, found '/'", "JSON has no comments"),
        ('{"a": [1 2]}', 1, "',' or ']' is needed, found '2'", ""),
        ('{"a": "\n"}', 1, "a string without its end", ""),
        ('{"a": 01}', 1, "a value is needed, found '0'", ""),
        ('{"a": ', 1, "found the end of the file", ""),
        ("[" * (DEPTH_MAX + 2), 1, f"nested more than {DEPTH_MAX} deep", ""),
    ],
)
def test_what_is_not_json_is_told_with_its_line(text: str, line: int, said: str, hint: str) -> None:
    report = Report("x.json")
    assert read_json(text.encode(), report) is None
    (problem,) = report.problems
    assert (problem.line, problem.hint) == (line, hint)
    assert said in problem.message


def test_a_key_that_is_there_twice_is_a_mistake() -> None:
    report = Report("x.json")
    assert read_json(b'{"a": {"b": 1,\n"b": 2}}', report) is not None
    assert [str(problem) for problem in report.problems] == ["x.json:2: a.b: 'b' is there twice, first in line 1"]
