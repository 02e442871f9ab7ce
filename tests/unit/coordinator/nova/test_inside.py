"""What runs inside containers, run here on files, ports and programs of the test's own."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.nova.goals import PYTHON, make_program
from coordinator.nova.inside import apply, probe

OWNER, GROUP = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name


def entry(path: Path, content: str, mode: str = "0640") -> dict[str, Any]:
    return {"path": str(path), "content": content, "mode": mode, "owner": OWNER, "group": GROUP}


def test_a_file_is_written_only_where_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    apply.write_file(entry(path, "one\n") | {"folder_mode": "0700"})
    assert path.read_text() == "one\n"
    assert (path.stat().st_mode & 0o7777, path.parent.stat().st_mode & 0o7777) == (0o640, 0o700)
    first = path.stat().st_ino
    apply.write_file(entry(path, "one\n"))
    assert path.stat().st_ino == first, "written again"
    apply.write_file(entry(path, "two\n"))
    assert path.stat().st_ino != first
    path.chmod(0o644)
    apply.write_file(entry(path, "two\n"))
    assert path.stat().st_mode & 0o7777 == 0o640
    assert [item.name for item in path.parent.iterdir()] == ["file"], "a temporary file is left"


def test_a_file_is_seen_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    apply.write_file(entry(path, "", "0600"))
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert probe.look_at_file(str(path)) == [empty, "0600", OWNER, GROUP]
    assert probe.look_at_file(str(tmp_path / "none")) is None


def test_a_failed_command_shows_its_last_lines_and_not_its_input() -> None:
    with pytest.raises(SystemExit) as caught:
        apply.run_command({"argv": ["sh", "-c", "cat > /dev/null; echo why >&2; exit 3"], "stdin": "secret"})
    assert str(caught.value) == "sh ended with 3\nwhy"


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """HOST:PORT of something that gives the answers of a list, one for each connection; the last one for ever."""
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(answers.pop(0) if answers[1:] else answers[0])

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", answers
        listener.shutdown(socket.SHUT_RDWR)


def test_waiting_ends_when_the_service_serves(server: tuple[str, list[bytes]]) -> None:
    place, answers = server
    answers += [b"HTTP/1.1 500 No\r\n\r\n", b"", b"HTTP/1.1 300 Multiple\r\n\r\n"]
    apply.wait_for("unit", f"{place}/v3", time.monotonic() + 10)
    assert answers == [b"HTTP/1.1 300 Multiple\r\n\r\n"], "it waited through the bad answers"
    assert probe.look_at_http(f"{place}/v3") == 300
    assert probe.look_at_port(place)


def test_waiting_in_vain_says_what_was_answered(
    server: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, answers = server
    answers += [b"HTTP/1.1 500 No\r\n\r\n"]
    make_program_file(tmp_path, "journalctl", "echo 'last words'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SystemExit, match=rf"unit: {place}/v3 did not answer in time: HTTP/1.1 500 No\nlast words"):
        apply.wait_for("unit", f"{place}/v3", time.monotonic() + 0.3)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    assert probe.look_at_http(f"{place}/") == 0
    assert not probe.look_at_port(place)


def make_program_file(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_rows_of_empty_and_failed_queries_do_not_shift_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The client prints nothing for a query that fails or finds nothing.
    make_program_file(
        tmp_path, "mariadb", "cat >/dev/null\nprintf 'caas query 0\\ncaas query 1\\n1\\tb\\n2\\tc\\ncaas query 2\\n'"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert probe.look_at_rows(["none", "two", "broken"]) == {"none": [], "two": [["1", "b"], ["2", "c"]], "broken": []}


def test_every_program_runs_alone_with_what_it_is_told(tmp_path: Path) -> None:
    wanted = {"files": [str(tmp_path / 'it\'s "none"\n')], "units": [], "http": [], "ports": [], "rows": []}
    done = subprocess.run(
        [sys.executable, *PYTHON[1:]], input=make_program("probe", wanted), capture_output=True, check=True
    )
    assert b'"files": {' in done.stdout
    assert b": null}" in done.stdout
