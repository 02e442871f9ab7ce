"""A worker process: does one thing at a time to containers, and is the only kind of process that calls liblxc.

Started as `python -m agent.containers.worker FD LXCPATH`, a fresh interpreter that never sees gRPC: each container's
monitor is a fork of it. Requests and answers are lines of JSON on the socket FD. It ends when the other side does;
the containers stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.containers import liblxc
from agent.containers.operations import Operations
from agent.containers.record import container_from_json, record_from_json
from agent.containers.rootfs import probe_storage
from agent.containers.sysfs import enter_own_sysfs, is_sysfs_ours
from proto.errors import CaasError, Code

Request = dict[str, Any]


def make_handlers(operations: Operations) -> dict[str, Callable[[Request], Any]]:
    """What each request's `op` does; the result must be JSON."""
    return {
        "observe": lambda request: operations.observe(request["keys"]),
        "inspect": lambda request: operations.inspect(request["questions"]),
        "create": lambda request: operations.create(
            record_from_json(request["record"]), request["keys"], seed=request["seed"], again=request["again"]
        ),
        "take_seed": lambda request: operations.take_seed(request["name"], request["seed"]),
        "drop_seed": lambda request: operations.drop_seed(request["name"], request["seed"]),
        "change": lambda request: operations.change(container_from_json(request["container"]), request["keys"]),
        "delete": lambda request: operations.delete(request["name"]),
        "start": lambda request: operations.start(request["name"]),
        "stop": lambda request: operations.stop(request["name"], request["patience"]),
        "tidy": lambda _: operations.tidy(),
        "storage": lambda request: probe_storage(operations.lxcpath, Path(request["image_rootfs"])).value,
        "version": lambda _: str(liblxc.binding().version),
        "modules": lambda _: sorted(sys.modules),
    }


def answer(handlers: dict[str, Callable[[Request], Any]], operations: Operations, request: Request) -> Request:
    """Do what *request* asks; every failure becomes an `error` with plain fields. `writes` is what it cost."""
    before = operations.writes
    try:
        result: Request = {"result": handlers[request["op"]](request)}
    except CaasError as exc:
        result = {"error": {"code": exc.code.value, "message": exc.message, "hint": exc.hint}}
    except Exception as exc:  # the worker lives on; the caller is told all there is
        text = f"{request.get('op')} {request.get('name', '')}: {type(exc).__name__}: {exc}"
        result = {"error": {"code": Code.FAILED.value, "message": text, "hint": ""}}
    return {**result, "writes": operations.writes - before}


def serve(connection: socket.socket, lxcpath: Path) -> None:
    """Answer requests until the other side closes."""
    operations = Operations(lxcpath)
    handlers = make_handlers(operations)
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(json.dumps(answer(handlers, operations, json.loads(line))).encode() + b"\n")
            stream.flush()


def main() -> None:
    """The process's entry: file descriptor and lxcpath come as arguments."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    os.umask(0o022)
    os.chdir("/")
    if not is_sysfs_ours():
        enter_own_sysfs()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the agent ended while it was served
        serve(connection, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
