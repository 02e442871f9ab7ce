"""A coordinator that answers as it is told, over a real unix socket: the command line is tested with its own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from coordinator.cli.main import cli
from proto import coordinator_pb2 as pb
from proto import coordinator_pb2_grpc, types_pb2
from proto.errors import CaasError
from proto.transport.failures import METADATA_KEY, STATUS


@dataclass
class ToldCoordinator(coordinator_pb2_grpc.CoordinatorServicer):
    """`documents` and `events` by call; `failures` end a call after its events; `calls` is what was asked.

    With `hold`, calls that tell events wait for it at their end; `left` is set when the caller has left.
    """

    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[pb.Event]] = field(default_factory=dict)
    failures: dict[str, CaasError] = field(default_factory=dict)
    outputs: list[pb.CoordinatorExecOutput] = field(default_factory=list)
    echo: bool = False
    hold: threading.Event | None = None
    left: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def _answer(self, call: str, request: Any, context: Any) -> pb.Document:
        self.calls.append((call, request))
        self._fail(call, context)
        return pb.Document(json=json.dumps(self.documents[call]))

    def _tell(self, call: str, request: Any, context: Any) -> Iterator[pb.Event]:
        self.calls.append((call, request))
        context.add_callback(self.left.set)
        yield from self.events.get(call, [])
        if self.hold is not None:
            self.hold.wait(60)
        self._fail(call, context)

    def _fail(self, call: str, context: Any) -> None:
        if error := self.failures.get(call):
            detail = types_pb2.ErrorDetail(code=error.code.value, message=error.message, hint=error.hint)
            context.set_trailing_metadata(((METADATA_KEY, detail.SerializeToString()),))
            context.abort(STATUS[error.code], error.message)

    def Check(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Check", request, context)

    def NatBoxStatus(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("NatBoxStatus", request, context)

    def Explain(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Explain", request, context)

    def Plan(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Plan", request, context)

    def Status(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Status", request, context)

    def Doctor(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Doctor", request, context)

    def Credentials(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Credentials", request, context)

    def Logs(self, request: Any, context: Any) -> pb.Document:  # noqa: N802
        return self._answer("Logs", request, context)

    def Up(self, request: Any, context: Any) -> Iterator[pb.Event]:  # noqa: N802
        yield from self._tell("Up", request, context)

    def Down(self, request: Any, context: Any) -> Iterator[pb.Event]:  # noqa: N802
        yield from self._tell("Down", request, context)

    def HandOver(self, request: Any, context: Any) -> Iterator[pb.Event]:  # noqa: N802
        yield from self._tell("HandOver", request, context)

    def Verify(self, request: Any, context: Any) -> Iterator[pb.Event]:  # noqa: N802
        yield from self._tell("Verify", request, context)

    def Test(self, request: Any, context: Any) -> Iterator[pb.Event]:  # noqa: N802
        yield from self._tell("Test", request, context)

    def Exec(self, inputs: Iterator[pb.CoordinatorExecInput], context: Any) -> Iterator[pb.CoordinatorExecOutput]:  # noqa: N802
        self.calls.append(("Exec", next(inputs).start))
        self._fail("Exec", context)
        if self.echo:
            for item in inputs:
                if item.WhichOneof("input") == "eof":
                    break
                yield pb.CoordinatorExecOutput(stdout=item.stdin)
        yield from self.outputs


@dataclass
class Caas:
    """The command line with a coordinator."""

    coordinator: ToldCoordinator
    socket: str

    def run(self, *arguments: str, **options: Any) -> Result:
        """`caas ARGUMENTS` in this process."""
        env = {"CAAS_COORDINATOR": self.socket, "CAAS_LAB": None, **options.pop("env", {})}
        return CliRunner().invoke(cli, list(arguments), prog_name="caas", env=env, **options)


@pytest.fixture
def caas(tmp_path: Path) -> Iterator[Caas]:
    server = grpc.server(ThreadPoolExecutor(4))
    told = ToldCoordinator()
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(told, server)
    socket = str(tmp_path / "s")
    assert server.add_insecure_port(f"unix:{socket}")
    server.start()
    yield Caas(told, socket)
    server.stop(0).wait()


@pytest.fixture
def demo(tmp_path: Path) -> str:
    """A good cluster file."""
    path = tmp_path / "demo.yaml"
    path.write_text((Path(__file__).parents[4] / "examples/demo.yaml").read_text())
    return str(path)
