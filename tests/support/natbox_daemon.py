"""`caas-natbox` as a process in a namespace, with certificates of its own, and calls to it from the management side."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from coordinator.lab.certificates import Authority, Bearer
from proto.model import GatewayTable
from proto.wire import gateway_table_to_wire
from tests.support.crossing import MANAGEMENT, Crossing
from tests.support.netns import poll_until

ROOT = Path(__file__).parents[2]
LISTEN = f"{MANAGEMENT}:7444"


class Daemon:
    """One NATBox daemon; `start` after `kill` is a restart with the same state."""

    def __init__(self, around: Crossing, folder: Path, *, metrics: str = "") -> None:
        self._around = around
        self._further = ["--metrics", metrics] if metrics else []
        self.state = folder / "state"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        authority = Authority(folder / "ca", "test")
        self._tls, self._client_tls = folder / "natbox", folder / "coordinator"
        address = ipaddress.IPv4Address(MANAGEMENT)
        authority.issue(Bearer(uri="caas:natbox", hostname="natbox", address=address), self._tls)
        authority.issue(Bearer(uri="caas:coordinator", hostname="coordinator", address=None), self._client_tls)

    def start(self) -> None:
        """Returns when it serves."""
        argv = [sys.executable, "-m", "natbox", "--listen", LISTEN, "--tls", str(self._tls), "--state"]
        argv += [str(self.state), "--trunk", "eth1", "--uplink", "eth2", *self._further]
        begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._around.natbox}", *argv], cwd=ROOT, stdout=log, stderr=log
            )
        poll_until(lambda: "serves on" in self.log()[begin:], deadline=30, describe=self.log)

    def log(self) -> str:
        return self._log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it by a signal; its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(30)
        self._process = None
        return status

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def call(self, method: str, **request: Any) -> list[dict[str, Any]]:
        """The replies; an error is a reply with "error"."""
        inside = ["nsenter", f"--net=/run/netns/{self._around.management}"]
        client = [sys.executable, "-m", "tests.support.natbox_client", LISTEN, str(self._client_tls), method]
        done = subprocess.run(
            [*inside, *client],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=90,
            check=False,
        )
        assert done.stdout, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def apply(self, table: GatewayTable, *, dry_run: bool = False) -> list[dict[str, Any]]:
        desired = json_format.MessageToDict(gateway_table_to_wire(table))
        return self.call("Apply", desired=desired, dryRun=dry_run)


@contextmanager
def daemon(around: Crossing, folder: Path, *, metrics: str = "") -> Iterator[Daemon]:
    """A running daemon, ended when the body is left; *metrics* is ADDRESS:PORT."""
    made = Daemon(around, folder, metrics=metrics)
    try:
        made.start()
        yield made
    finally:
        made.close()
