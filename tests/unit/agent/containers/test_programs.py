"""Worker programs that another process starts: who may ask, what is started, that it outlives the starter."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.containers.programs import FarProgram, Starter
from agent.containers.starter import listen, serve
from proto.errors import CaasError, Code
from tests.support.netns import poll_until

#: It serves until its connection ends, and needs neither root nor liblxc for that.
PROGRAM = "agent.containers.exec_server"


@contextmanager
def starter(path: Path, lxcpath: Path) -> Iterator[Starter]:
    """One that serves *lxcpath* at *path* while this lasts."""
    reading, writing = os.pipe()
    with listen(path) as listening:
        thread = threading.Thread(target=serve, args=(listening, reading, lxcpath))
        thread.start()
        yield Starter(path)
        os.write(writing, b".")
        thread.join()
    os.close(reading)
    os.close(writing)


def connect() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def is_alive(program: FarProgram) -> bool:
    return Path(f"/proc/{program.pid}/stat").exists() and _state(program.pid) not in "ZX"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_program_outlives_its_starter_and_ends_with_its_connection(tmp_path: Path) -> None:
    mine, theirs = connect()
    with starter(tmp_path / "socket", tmp_path) as start, theirs:
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
        program = start(PROGRAM, theirs, str(tmp_path))
    # execve(2) shows the words a moment after it has closed what is closed on exec.
    argv = poll_until(lambda: Path(f"/proc/{program.pid}/cmdline").read_bytes().split(b"\0")[:-1], deadline=5)
    assert PROGRAM.encode() in argv
    assert is_alive(program)
    mine.close()
    program.wait()
    assert not is_alive(program)
    program.kill()  # already gone
    program.wait()


def test_a_program_is_killed(tmp_path: Path) -> None:
    mine, theirs = connect()
    with starter(tmp_path / "socket", tmp_path) as start, mine, theirs:
        program = start(PROGRAM, theirs, str(tmp_path))
        program.kill()
        program.wait()
        assert not is_alive(program)


@pytest.mark.parametrize(("program", "lxcpath"), [("agent.containers.image_build", "."), (PROGRAM, "/elsewhere")])
def test_nothing_else_is_started(tmp_path: Path, program: str, lxcpath: str) -> None:
    mine, theirs = connect()
    with starter(tmp_path / "socket", tmp_path) as start, mine, theirs:
        with pytest.raises(CaasError, match="is served here"):
            start(program, theirs, str(tmp_path) if lxcpath == "." else lxcpath)
        start(PROGRAM, theirs, str(tmp_path)).kill()  # and it goes on


def test_without_a_starter_the_error_says_where_to_look(tmp_path: Path) -> None:
    mine, theirs = connect()
    with mine, theirs, pytest.raises(CaasError) as caught:
        Starter(tmp_path / "socket")(PROGRAM, theirs, str(tmp_path))
    assert caught.value.code is Code.UNREACHABLE
    assert caught.value.hint == "systemctl status caas-containers"
