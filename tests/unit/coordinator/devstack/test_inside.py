"""The program that runs in containers: the parts of it that need none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.devstack import inside


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[DEFAULT]\nmy_ip = 1.1.1.1\na = b\n", "[DEFAULT]\nmy_ip = 2.2.2.2\na = b\n"),
        ("[DEFAULT]\nmy_ip=1.1.1.1\nmy_ip=1.1.1.2\n", "[DEFAULT]\nmy_ip = 2.2.2.2\n"),
        (
            "# c\n[DEFAULT]\na = b\n[x]\nmy_ip = 3.3.3.3\n",
            "# c\n[DEFAULT]\na = b\nmy_ip = 2.2.2.2\n[x]\nmy_ip = 3.3.3.3\n",
        ),
        ("[x]\na = b\n", "[x]\na = b\n[DEFAULT]\nmy_ip = 2.2.2.2\n"),
        ("", "[DEFAULT]\nmy_ip = 2.2.2.2\n"),
    ],
)
def test_my_ip_is_replaced_in_its_section_and_nothing_else_is(text: str, wanted: str) -> None:
    assert inside.replace_my_ip(text, "2.2.2.2") == wanted


def test_a_look_changes_nothing_and_never_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inside, "RECORD", str(tmp_path / "record"))
    monkeypatch.setattr(inside, "NOVA_CONF", str(tmp_path / "nova.conf"))
    nothing: dict[str, object] = {"digest": "", "my_ip": None, "services": {}}
    inside.main({"do": "look"})
    assert json.loads(capsys.readouterr().out) == nothing
    (tmp_path / "record").write_text("half a rec")
    inside.main({"do": "look"})
    assert json.loads(capsys.readouterr().out) == nothing
    (tmp_path / "record").write_text('{"digest": "abc"}')
    inside.main({"do": "look"})
    assert json.loads(capsys.readouterr().out) == {**nothing, "digest": "abc"}
    (tmp_path / "nova.conf").write_text("[DEFAULT]\nmy_ip = 10.0.3.9\nlog = %(x)s\n")
    assert inside.my_ip() == "10.0.3.9"
