"""Two NATBoxes on one trunk and one uplink segment, their coordinator, and who watches them; all in namespaces.

tenants, raw --- trunk switch --- eth1 [a] eth2 --- uplink switch --- outside 203.0.113.254/24
                              --- eth1 [b] eth2 ---
coordinator 192.168.2.1 --- management switch --- eth0 [a] .24, eth0 [b] .23
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from coordinator.lab.certificates import Authority, Bearer
from proto.model import GatewayTable
from proto.wire import gateway_table_to_wire
from tests.support.crossing import OUTSIDE, Crossing, mac_of, run
from tests.support.netns import poll_until

ROOT = Path(__file__).parents[2]
A, B, SHARED = "192.168.2.24", "192.168.2.23", "203.0.113.1"
_numbers = itertools.count()


class TwoCrossing(Crossing):
    """The namespaces; `close` removes all of them."""

    def __init__(self) -> None:
        self.prefix = f"nb2{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []
        self.switch = self._add_switch("sw")
        self.uplink_switch, self.management = self._add_switch("up"), self._add_switch("mg")
        self.raw, self.outside = self.add_namespace("raw"), self.add_namespace("out")
        self.plug(self.raw, "eth1")
        self._plug_into(self.uplink_switch, self.outside, "eth0")
        run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "eth0", netns=self.outside)
        run("ip", "address", "add", "192.168.2.1/24", "dev", "br0", netns=self.management)
        self.boxes = {address: self._add_box(name, address) for name, address in (("a", A), ("b", B))}

    def _add_switch(self, name: str) -> str:
        netns = self.add_namespace(name)
        run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", netns=netns)
        run("ip", "link", "set", "br0", "up", netns=netns)
        return netns

    def _plug_into(self, switch: str, netns: str, link: str) -> None:
        ours, self.switch = self.switch, switch
        self.plug(netns, link)
        self.switch = ours

    def _add_box(self, name: str, address: str) -> str:
        netns = self.add_namespace(name)
        self.plug(netns, "eth1")
        self._plug_into(self.uplink_switch, netns, "eth2")
        self._plug_into(self.management, netns, "eth0")
        run("ip", "address", "add", f"{address}/24", "dev", "eth0", netns=netns)
        self.set_default_route(netns)
        return netns

    def set_default_route(self, netns: str) -> None:
        """The operator's part. It goes when the link goes down."""
        run("ip", "route", "replace", "default", "via", OUTSIDE, "dev", "eth2", "onlink", netns=netns)

    def set_links(self, address: str, state: str) -> None:
        """Trunk and uplink of one NATBox, "up" or "down"."""
        for link in ("eth1", "eth2"):
            run("ip", "link", "set", link, state, netns=self.boxes[address])

    def mac(self, address: str, link: str) -> str:
        return mac_of(self.boxes[address], link)


class Processes:
    """Two daemons and a coordinator, with certificates of one authority."""

    def __init__(self, around: TwoCrossing, folder: Path) -> None:
        self.around, self._folder = around, folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._since = 0.0
        authority = Authority(folder / "ca", "test")
        for address in (A, B):
            bearer = Bearer(uri="caas:natbox", hostname="natbox", address=ipaddress.IPv4Address(address))
            authority.issue(bearer, folder / address / "tls")
        coordinator = Bearer(uri="caas:coordinator", hostname="coordinator", address=None)
        authority.issue(coordinator, folder / "coordinator" / "tls")
        self.socket = folder / "coordinator.sock"
        config = f"natbox:\n  addresses: [{A}, {B}]\n  shared: [{SHARED}/24]\n"
        (folder / "config.yaml").write_text(config)

    def start_natbox(self, address: str) -> None:
        """Returns when it serves."""
        argv = ["natbox", "--listen", f"{address}:7444", "--trunk", "eth1", "--uplink", "eth2"]
        self._start(address, self.around.boxes[address], argv)

    def start_coordinator(self) -> None:
        """Returns when it serves. From now on it watches."""
        config = ["--socket", str(self.socket), "--config", str(self._folder / "config.yaml")]
        self._start("coordinator", self.around.management, ["coordinator.rpc.main", *config])

    def _start(self, name: str, netns: str, argv: list[str]) -> None:
        folder, log = self._folder / name, self._folder / f"{name}.log"
        begin = log.stat().st_size if log.exists() else 0
        more = ["--tls", str(folder / "tls"), "--state", str(folder / "state")]
        with log.open("ab") as out:
            self._running[name] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-m", *argv, *more],
                cwd=ROOT,
                stdout=out,
                stderr=out,
            )
        poll_until(lambda: "serves on" in log.read_text()[begin:], deadline=60, describe=log.read_text)

    def kill(self, name: str) -> None:
        """As kill -9 does it."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    def close(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def call(self, address: str, method: str, **request: Any) -> dict[str, Any]:
        """The last reply of one NATBox; an error is a reply with "error"."""
        inside = ["nsenter", f"--net=/run/netns/{self.around.management}"]
        tls = self._folder / "coordinator" / "tls"
        client = [sys.executable, "-m", "tests.support.natbox_client", f"{address}:7444", str(tls), method]
        text = json.dumps(request)
        done = subprocess.run(
            [*inside, *client], input=text, capture_output=True, text=True, cwd=ROOT, timeout=90, check=False
        )
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def apply(self, address: str, table: GatewayTable) -> None:
        reply = self.call(address, "Apply", desired=json_format.MessageToDict(gateway_table_to_wire(table)))
        assert "result" in reply, reply

    def standing(self, address: str) -> tuple[str, int]:
        """Role and epoch, as its daemon keeps them on disk: without a process for each look."""
        kept = json.loads((self._folder / address / "state" / "role.json").read_text())
        return str(kept["role"]), int(kept["epoch"])

    def tables(self, address: str) -> set[str]:
        """The clusters that it keeps a table of."""
        return {path.stem for path in (self._folder / address / "state" / "desired").glob("*.json")}

    def hand_over(self, *to: str) -> dict[str, Any]:
        """`caas natbox hand-over`; its document."""
        argv = [sys.executable, "-m", "coordinator.cli.main", "natbox", "hand-over", *to, "--json"]
        done = subprocess.run(
            [*argv, "--coordinator", str(self.socket)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def forget_entries(self) -> None:
        """Begin the journal anew for `entries`."""
        self._since = time.time()

    def entries(self, step: str) -> list[tuple[float, float | None, str | None, str]]:
        """What the coordinator's journal has of *step*: began, ended, outcome, message."""
        with sqlite3.connect(self._folder / "coordinator" / "state" / "journal.db") as database:
            query = "SELECT began, ended, outcome, message FROM entries WHERE step = ? AND began > ? ORDER BY id"
            return database.execute(query, (step, self._since)).fetchall()


@contextmanager
def two_natboxes(folder: Path) -> Iterator[tuple[TwoCrossing, Processes]]:
    """A pair of which A works, with its coordinator; removed when the body is left."""
    around = TwoCrossing()
    try:
        processes = Processes(around, folder)
        try:
            for address in (A, B):
                processes.start_natbox(address)
            processes.start_coordinator()
            poll_until(
                lambda: "epoch" in processes.log(A) and "epoch" in processes.log(B),
                deadline=20,
                describe=lambda: processes.log("coordinator"),
            )
            yield around, processes
        finally:
            processes.close()
    finally:
        around.close()
