"""Commands in containers, for an asyncio program: streams, exit status, cancellation.

The work is done by a process of its own (exec_server), which is started before gRPC and started again if it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.containers.config import check_path
from agent.containers.programs import Program, Spawn, spawn_interpreter
from proto.errors import CaasError, Code, invalid

_LIMIT = 256 * 1024
#: A frozen container keeps even the killed from ending; seconds.
_CLOSE_PATIENCE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left. `status` is 128 + N where signal N ended it."""

    status: int
    stdout: bytes
    stderr: bytes


class ExecProcess:
    """A command that runs in a container. `stdin` takes bytes; `stdout` and `stderr` give them.

    A command's children may keep stdout open after it has ended: read until wait() has answered, or to the end.
    """

    def __init__(
        self,
        stdin: asyncio.StreamWriter,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        transports: Sequence[asyncio.BaseTransport],
    ) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._caller, self._line = line
        self._transports = transports
        self._answer: asyncio.Task[bytes] = asyncio.create_task(self._caller.readline())

    async def wait(self) -> int:
        """Its exit status. NOT_FOUND where the container does not exist or run; FAILED where it went away."""
        line = b""
        with contextlib.suppress(ConnectionResetError):
            line = await asyncio.shield(self._answer)
        if not line:
            raise CaasError(Code.FAILED, "the process that runs commands in containers ended; the command was killed")
        answer = json.loads(line)
        if error := answer.get("error"):
            raise CaasError(Code(error["code"]), error["message"], hint=error["hint"])
        return int(answer["status"])

    def kill(self) -> None:
        """Kill it and its process group; wait() then gives 137 unless it had ended. May be repeated."""
        if not self._line.is_closing() and self._line.can_write_eof():
            with contextlib.suppress(OSError):
                self._line.write_eof()

    async def close(self) -> None:
        """Kill it if it still runs, and let go of its streams."""
        self.kill()
        with contextlib.suppress(CaasError, TimeoutError):
            await asyncio.wait_for(self.wait(), _CLOSE_PATIENCE)
        self._line.close()
        for transport in self._transports:
            transport.close()

    async def __aenter__(self) -> ExecProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ExecDoor:
    """Runs commands in the containers below *state*/containers. Make it before gRPC is imported."""

    def __init__(self, state: Path, *, spawn: Spawn = spawn_interpreter) -> None:
        self._lxcpath = check_path(state.absolute() / "containers")
        self._spawn = spawn
        self._start()

    def _start(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server: Program = self._spawn("agent.containers.exec_server", theirs, str(self._lxcpath))
        self._socket = mine

    @property
    def pid(self) -> int:
        """Of the process that runs the commands."""
        return self._server.pid

    def close(self) -> None:
        """End the process. Commands that run are killed when their callers close them."""
        self._socket.close()
        self._server.wait()

    async def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> ExecProcess:
        """Run *argv* (no shell) as root in container *name* (CLUSTER.HOSTNAME), with a clean environment and *env*.

        A container that does not run is reported by wait(). INVALID for an empty argv or one with NUL.
        """
        if not argv or any("\0" in text for text in (*argv, *(env or {}), *(env or {}).values())):
            raise invalid(f"container {name}: a command is needed, without NUL characters")
        request: dict[str, object] = {"name": name, "argv": list(argv), "env": dict(env or {})}
        (their_in, stdin), (stdout, their_out), (stderr, their_err) = os.pipe(), os.pipe(), os.pipe()
        line, their_line = socket.socketpair()
        try:
            self._send([their_line.fileno(), their_in, their_out, their_err])
        except OSError as exc:
            line.close()
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
            raise CaasError(Code.FAILED, f"container {name}: commands cannot be run: {exc}") from exc
        finally:
            their_line.close()
            for descriptor in (their_in, their_out, their_err):
                os.close(descriptor)
        return await _connect(line, stdin, stdout, stderr, request)

    def _send(self, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._socket, [b"x"], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            self._socket.close()
            self._server.wait()
            self._start()
            socket.send_fds(self._socket, [b"x"], descriptors)

    async def run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Finished:
        """Run *argv* to its end with *stdin*. TIMEOUT after *timeout* seconds: it is killed then, as when cancelled."""
        try:
            async with asyncio.timeout(timeout):
                async with await self.spawn(name, argv, env=env) as process:
                    feeding = asyncio.create_task(_feed(process.stdin, stdin))
                    output, errors = (
                        asyncio.create_task(process.stdout.read()),
                        asyncio.create_task(process.stderr.read()),
                    )
                    try:
                        status = await process.wait()
                        return Finished(status=status, stdout=await output, stderr=await errors)
                    finally:
                        for task in (feeding, output, errors):
                            task.cancel()
        except TimeoutError:
            text = " ".join(argv)
            raise CaasError(Code.TIMEOUT, f"container {name}: {text[:200]}: not done within {timeout:g} s") from None


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not read all: its status says why
        writer.write(data)
        await writer.drain()
    writer.close()


async def _connect(
    mine: socket.socket, stdin: int, stdout: int, stderr: int, request: dict[str, object]
) -> ExecProcess:
    loop = asyncio.get_running_loop()
    readers, transports = [], []
    for descriptor in (stdout, stderr):
        reader = asyncio.StreamReader(limit=_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_read_pipe(lambda one=protocol: one, os.fdopen(descriptor, "rb", 0))  # type: ignore[misc]
        readers.append(reader)
        transports.append(transport)
    flow = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    write_transport, _ = await loop.connect_write_pipe(lambda: flow, os.fdopen(stdin, "wb", 0))
    writer = asyncio.StreamWriter(write_transport, flow, None, loop)
    caller, line = await asyncio.open_unix_connection(sock=mine)
    line.write(json.dumps(request).encode() + b"\n")
    return ExecProcess(writer, readers[0], readers[1], (caller, line), [*transports, write_transport])
