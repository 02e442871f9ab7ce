"""`caas natbox hand-over`: what is asked, what is shown, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proto import coordinator_pb2 as pb
from proto.errors import CaasError, Code

DONE = {"from": "10.0.0.1", "to": "10.0.0.2", "epoch": 3, "connections": 1200, "refused": 0, "seconds": 0.214}


def told(document: dict[str, Any]) -> list[pb.Event]:
    step, title = "natbox:hand-over", "10.0.0.1 -> 10.0.0.2"
    return [
        pb.Event(id=step, title=title, state=pb.Event.STARTED),
        pb.Event(id=step, title=title, state=pb.Event.DONE),
        pb.Event(state=pb.Event.SUMMARY, document=json.dumps(document)),
    ]


def test_it_says_what_went_along(caas: Any) -> None:
    caas.coordinator.events["HandOver"] = told(DONE)
    result = caas.run("natbox", "hand-over", "--to", "10.0.0.2")
    assert (result.exit_code, result.stdout) == (0, "10.0.0.2 works: 1200 connections, 0.21 s\n")
    assert "10.0.0.1 -> 10.0.0.2" in result.stderr
    assert [request.to for _, request in caas.coordinator.calls] == ["10.0.0.2"]
    assert json.loads(caas.run("natbox", "hand-over", "--json").stdout) == DONE
    assert caas.coordinator.calls[-1][1].to == ""


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"refused": 7}, "10.0.0.2 works: 1200 connections, 7 lost, 0.21 s\n"),
        ({"from": "10.0.0.2"}, "10.0.0.2 works already\n"),
    ],
)
def test_what_is_not_as_usual_is_said(caas: Any, more: dict[str, Any], line: str) -> None:
    caas.coordinator.events["HandOver"] = told({**DONE, **more})
    assert caas.run("natbox", "hand-over").stdout == line


@pytest.mark.parametrize(("code", "status"), [(Code.REFUSED, 2), (Code.INVALID, 2), (Code.UNREACHABLE, 1)])
def test_a_refusal_is_told_apart_from_a_failure(caas: Any, code: Code, status: int) -> None:
    caas.coordinator.failures["HandOver"] = CaasError(code, "NATBox 10.0.0.2 cannot take over", hint="mend it")
    result = caas.run("natbox", "hand-over")
    assert (result.exit_code, result.stdout) == (status, "")
    assert "error: NATBox 10.0.0.2 cannot take over\nhint: mend it\n" in result.stderr


def test_status_shows_which_of_two_works(caas: Any) -> None:
    pair = [
        {"address": "10.0.0.1", "role": "active", "epoch": 3, "unfit": []},
        {"address": "10.0.0.2", "role": "", "epoch": 0, "unfit": ["natbox 10.0.0.2: away"]},
    ]
    caas.coordinator.documents["NatBoxStatus"] = {"natboxes": [], "pair": pair}
    lines = caas.run("natbox", "status").stdout.splitlines()
    assert lines[-3:] == ["10.0.0.1: active, epoch 3", "10.0.0.2: does not answer", "  natbox 10.0.0.2: away"]
