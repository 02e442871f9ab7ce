"""Commands in containers: streams, status, environment, cancellation, many at once."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.containers.door import LxcDoor
from agent.containers.exec import ExecDoor
from proto.errors import CaasError, Code
from proto.model import Container

Make = Callable[..., Container]
_serial = itertools.count(100)


@pytest.fixture
def name(door: LxcDoor, container: Make) -> str:
    """A container that runs."""
    one = container()
    door.create(one)
    door.start(one)
    return one.name


@pytest.fixture
def seconds() -> str:
    """How long to sleep: far longer than any test, and a number that nobody else uses."""
    return f"{os.getpid()}{next(_serial)}1"


def sleepers(seconds: str) -> list[int]:
    """Processes of the machine that are `sleep SECONDS`."""
    return running("sleep", seconds)


def running(*argv: str) -> list[int]:
    """Processes of the machine that were started as *argv*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == "\0".join((*argv, "")).encode():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


async def wait_for(what: Callable[[], bool], text: str) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end, text
        await asyncio.sleep(0.01)


async def test_streams_and_status(exec_door: ExecDoor, name: str) -> None:
    done = await exec_door.run(name, ["sh", "-c", "cat; echo err >&2; exit 7"], stdin=b"in")
    assert (done.status, done.stdout, done.stderr) == (7, b"in", b"err\n")


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["true"], 0, b""),
        (["sh", "-c", "kill -9 $$"], 137, b""),
        (["sh", "-c", "kill -15 $$"], 143, b""),
        (["nonesuch"], 127, b"nonesuch: No such file or directory\n"),
        (["/etc/hosts"], 126, b"/etc/hosts: Permission denied\n"),
    ],
)
async def test_status(exec_door: ExecDoor, name: str, argv: list[str], status: int, said: bytes) -> None:
    done = await exec_door.run(name, argv)
    assert (done.status, done.stderr) == (status, said)


async def test_where_it_runs(exec_door: ExecDoor, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    script = "hostname; pwd; id -u; ls /proc/self/fd | wc -l; cat /proc/self/status; env"
    done = await exec_door.run(name, ["sh", "-c", script], env={"EXTRA": "y z"})
    lines = done.stdout.decode().splitlines()
    assert lines[:3] == ["c1", "/", "0"]
    assert int(lines[3]) == 4, "more than 0, 1, 2 and ls's own folder are open in it"
    for line in ("EXTRA=y z", "HOME=/root", "LANG=C.UTF-8"):
        assert line in lines
    # 32 and 33 are the C library's own (signal(7)): nobody can set them, and below GNU make they are ignored.
    own = 1 << 31 | 1 << 32
    assert not next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn")) & ~own
    assert "SECRET" not in done.stdout.decode()
    dropped = 1 << 25  # CAP_SYS_TIME, which common.conf drops
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    assert effective
    assert not effective & dropped


async def test_arguments_are_not_split_or_expanded(exec_door: ExecDoor, name: str) -> None:
    words = ["a b", "$HOME", "*", "'", "", "ü"]
    done = await exec_door.run(name, ["printf", "%s\\n", *words])
    assert done.stdout.decode().splitlines() == words
    long = "x" * 100_000
    assert (await exec_door.run(name, ["printf", "%s", long])).stdout == long.encode()


async def test_interactive(exec_door: ExecDoor, name: str) -> None:
    async with await exec_door.spawn(name, ["cat"]) as process:
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            assert await asyncio.wait_for(process.stdout.readline(), 5) == line
        process.stdin.close()
        assert await process.wait() == 0
        assert await process.wait() == 0, "asked twice"


async def test_much_data_both_ways(exec_door: ExecDoor, name: str) -> None:
    data = os.urandom(4_000_000)
    assert (await exec_door.run(name, ["cat"], stdin=data)).stdout == data


async def test_a_command_that_does_not_read_its_input(exec_door: ExecDoor, name: str) -> None:
    assert (await exec_door.run(name, ["true"], stdin=b"x" * 1_000_000)).status == 0


async def test_timeout_kills_all_of_it(exec_door: ExecDoor, name: str, seconds: str) -> None:
    with pytest.raises(CaasError, match=r"not done within 0\.5 s") as failure:
        await exec_door.run(name, ["sh", "-c", f"sleep {seconds} & sleep {seconds}"], timeout=0.5)
    assert failure.value.code is Code.TIMEOUT
    await wait_for(lambda: not sleepers(seconds), "the command's processes live on")


async def test_cancelling_kills(exec_door: ExecDoor, name: str, seconds: str) -> None:
    task = asyncio.create_task(exec_door.run(name, ["sleep", seconds]))
    await wait_for(lambda: bool(sleepers(seconds)), "it never ran")
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 4, "it was left to end by itself"
    await wait_for(lambda: not sleepers(seconds), "it lives on")


async def test_kill_gives_137(exec_door: ExecDoor, name: str) -> None:
    async with await exec_door.spawn(name, ["sleep", "1000"]) as process:
        process.kill()
        process.kill()
        assert await asyncio.wait_for(process.wait(), 5) == 137


async def test_many_at_once_block_nobody(
    exec_door: ExecDoor, door: LxcDoor, name: str, container: Make, seconds: str
) -> None:
    script = "while [ ! -e /done ]; do sleep 0.1; done"
    tasks = [asyncio.create_task(exec_door.run(name, ["sh", "-c", script, seconds])) for _ in range(40)]
    await wait_for(lambda: len(running("sh", "-c", script, seconds)) == 40, "not all run at once")
    other = container(2)
    await asyncio.to_thread(door.create, other)
    await asyncio.to_thread(door.start, other)
    await asyncio.to_thread(door.stop, other)
    assert not any(task.done() for task in tasks), "starting and stopping waited for the commands"
    await exec_door.run(name, ["touch", "/done"])
    assert {done.status for done in await asyncio.gather(*tasks)} == {0}


async def test_no_container(exec_door: ExecDoor, door: LxcDoor, container: Make) -> None:
    with pytest.raises(CaasError, match="does not exist") as failure:
        await exec_door.run("t.none", ["true"])
    assert failure.value.code is Code.NOT_FOUND
    door.create(container())
    with pytest.raises(CaasError, match="does not run") as failure:
        await exec_door.run("t.c1", ["true"])
    assert failure.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
async def test_no_command(exec_door: ExecDoor, argv: list[str]) -> None:
    with pytest.raises(CaasError, match="a command is needed"):
        await exec_door.run("t.c1", argv)


async def test_stopping_the_container_ends_its_commands(
    exec_door: ExecDoor, door: LxcDoor, name: str, container: Make, seconds: str
) -> None:
    async with await exec_door.spawn(name, ["sleep", seconds]) as process:
        await wait_for(lambda: bool(sleepers(seconds)), "it never ran")
        await asyncio.to_thread(door.stop, container())
        assert await asyncio.wait_for(process.wait(), 5) == 137


async def test_its_process_killed(exec_door: ExecDoor, name: str) -> None:
    before = exec_door.pid
    os.kill(before, signal.SIGKILL)
    await wait_for(lambda: Path(f"/proc/{before}/stat").read_text().split()[2] == "Z", "it lives on")
    assert (await exec_door.run(name, ["true"])).status == 0
    assert exec_door.pid != before


async def test_its_process_killed_while_a_command_waits_for_it(exec_door: ExecDoor, name: str) -> None:
    os.kill(exec_door.pid, signal.SIGSTOP)
    async with await exec_door.spawn(name, ["true"]) as process:
        os.kill(exec_door.pid, signal.SIGKILL)
        with pytest.raises(CaasError, match="the process that runs commands in containers ended") as failure:
            await asyncio.wait_for(process.wait(), 5)
    assert failure.value.code is Code.FAILED


async def test_its_descriptors_are_given_back(exec_door: ExecDoor, name: str) -> None:
    await exec_door.run(name, ["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await exec_door.run(name, ["true"])
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_latency(exec_door: ExecDoor, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        assert (await exec_door.run(name, ["true"])).status == 0
        seconds.append(time.perf_counter() - began)
    with capsys.disabled():
        print(f"\nexec of true: p50 {sorted(seconds)[15] * 1000:.1f} ms, worst {max(seconds) * 1000:.1f} ms")
