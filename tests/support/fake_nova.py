"""Containers that answer like real ones to the programs of coordinator/nova/inside, without running them.

A FakeContainer keeps files, units and what they read at their start. Rows and answers of APIs belong to the
FakeCluster: what a program of caas would have made there appears when that program has been run.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from coordinator.nova.database import CELLS_QUERY, GRANTS_QUERY, USERS_QUERY
from coordinator.nova.keystone import ENDPOINTS_QUERY, ROLES_QUERY
from coordinator.nova.verify import BOOTED_QUERY, FLAVORS_QUERY, IMAGES_QUERY, MAPPED_QUERY
from coordinator.steps import Completed
from proto.errors import CaasError, Code


@dataclass
class Call:
    """One exec: in which container, what program, with what argument."""

    container: str
    argv: tuple[str, ...]
    program: str
    argument: Any
    stdin: bytes = b""


@dataclass
class FakeCluster:
    """What all containers of a cluster share: the database's rows, nova's list of services, the calls made."""

    rows: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    computes_up: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    #: The next call of this program fails, with this text.
    fail: dict[str, str] = field(default_factory=dict)

    def programs(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.program == name]


class FakeContainer:
    """coordinator.steps.Shell for one container of a FakeCluster."""

    def __init__(self, cluster: FakeCluster, hostname: str) -> None:
        self.cluster = cluster
        self.container = hostname
        self.files: dict[str, dict[str, str]] = {}
        self.started: dict[str, str] = {}
        #: What the program of coordinator/devstack would see.
        self.devstack: dict[str, Any] = {"digest": "", "my_ip": None, "services": {}}

    async def inspect(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Only by programs in it."""

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60.0, check: bool = True
    ) -> Completed:
        program, argument = _read_program(stdin)
        self.cluster.calls.append(Call(self.container, tuple(argv), program or argv[0], argument, stdin))
        if text := self.cluster.fail.pop(program or argv[0], ""):
            raise CaasError(Code.FAILED, f"{self.container}: {argv[0]} ended with 1: {text}")
        answer: Any = {}
        match program or argv[0]:
            case "probe":
                answer = self._probe(argument)
            case "apply":
                self._apply(argument)
            case "cloud":
                answer = self._cloud(argument)
            case "devstack":
                answer = self._stack(argument)
            case "rm":
                for path in argv[2:]:
                    self.files.pop(path, None)
            case "systemctl":
                for unit in argv[2:]:
                    self.started.pop(unit.removesuffix(".service"), None)
        return Completed(status=0, stdout=json.dumps(answer).encode(), stderr=b"")

    def _probe(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        serving = bool(self.started)
        return {
            "files": {path: self._look_at(path) for path in wanted["files"]},
            "units": {
                unit: {
                    "active": "active" if unit in self.started else "inactive",
                    "started": self.started.get(unit, ""),
                }
                for unit in wanted["units"]
            },
            "http": dict.fromkeys(wanted["http"], 200 if serving else 0),
            "ports": dict.fromkeys(wanted["ports"], serving),
            "rows": {query: [list(row) for row in self.cluster.rows.get(query, [])] for query in wanted["rows"]},
        }

    def _stack(self, job: dict[str, Any]) -> dict[str, Any]:
        match job["do"]:
            case "stack":
                self.devstack["digest"] = job["digest"]
            case "start":
                running = dict.fromkeys(self.devstack["services"], True)
                self.devstack.update(my_ip=job["address"], services=running)
        return self.devstack

    def _look_at(self, path: str) -> list[str] | None:
        entry = self.files.get(path)
        return [_digest(entry["content"]), entry["mode"], entry["owner"], entry["group"]] if entry else None

    def _apply(self, job: dict[str, Any]) -> None:
        for entry in job["files"]:
            self.files[entry["path"]] = entry
        for unit in job["units"]:
            self.started[unit["name"]] = "".join(
                f"{_digest(self.files[path]['content'])}  {path}\n" for path in unit["reads"]
            )
        for command in (*job["before"], *job["after"]):
            self._command(command)

    def _command(self, command: dict[str, Any]) -> None:
        rows = self.cluster.rows
        if command["argv"][0] == "keystone-manage":
            urls = {word[12:-4]: url for word, url in pairwise(command["argv"]) if word.endswith("-url")}
            region = command["argv"][command["argv"].index("--bootstrap-region-id") + 1]
            rows.setdefault(ROLES_QUERY, []).append(("admin", "admin", "admin"))
            endpoints = [("identity", interface, region, url) for interface, url in urls.items()]
            rows.setdefault(ENDPOINTS_QUERY, []).extend(endpoints)
        elif command["argv"][0] == "mariadb":
            _run_sql(rows, command["stdin"])

    def _set_endpoints(self, job: dict[str, Any], urls: dict[str, str]) -> None:
        rows = self.cluster.rows.setdefault(ENDPOINTS_QUERY, [])
        rows[:] = [row for row in rows if row[0] not in urls or row[1] != job["interface"]]
        rows.extend((kind, job["interface"], job["region"], url) for kind, url in urls.items())

    def _cloud(self, job: dict[str, Any]) -> dict[str, Any]:
        rows = self.cluster.rows
        match job["action"]:
            case "catalog":
                for user in job["users"]:
                    rows.setdefault(ROLES_QUERY, []).extend((user["name"], job["project"], r) for r in user["roles"])
                for service in job["services"]:
                    self._set_endpoints(job, {service["type"]: service["url"] for service in job["services"]})
            case "endpoints":
                self._set_endpoints(job, job["urls"])
            case "prepare":
                rows[IMAGES_QUERY] = [(job["name"], "active")]
                rows[FLAVORS_QUERY] = [(job["name"], "1")]
            case "up":
                self.cluster.computes_up.update(job["hosts"])
                rows.setdefault(MAPPED_QUERY, []).extend((host,) for host in job["hosts"])
                return {"late": []}
            case "boot":
                rows.setdefault(BOOTED_QUERY, []).extend((host,) for host in job["hosts"])
                return {host: {"boot": 0.1, "delete": 0.1} for host in job["hosts"]}
            case "forget":
                self.cluster.computes_up.discard(job["host"])
        services = [
            {"binary": "nova-compute", "host": host, "state": "up", "status": "enabled"}
            for host in sorted(self.cluster.computes_up)
        ]
        return {"services": services, "computes_up": len(services)}


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _read_program(stdin: bytes) -> tuple[str, Any]:
    """Which of the inside programs *stdin* is, and its argument."""
    text = stdin.decode()
    if "def run_stack(" in text:
        return "devstack", json.loads(
            ast.literal_eval(text.rpartition("\nmain(json.loads(")[2].strip().removesuffix("))"))
        )
    _, found, call = text.rpartition("\nmain(_json.loads(")
    if not found:
        return "", None
    names = {"look_at_files": "probe", "def write_file(": "apply", "class Cloud": "cloud", "def look_at_file(": "probe"}
    name = next(value for key, value in names.items() if key in text)
    return name, json.loads(ast.literal_eval(call.strip().removesuffix("))")))


def _run_sql(rows: dict[str, list[tuple[str, ...]]], sql: str) -> None:
    """What the database step's statements leave behind."""
    from coordinator.nova.database import hash_password

    for line in sql.splitlines():
        words = line.replace("'", " ").replace("`", " ").replace(";", " ").split()
        if line.startswith("CREATE USER"):
            rows.setdefault(USERS_QUERY, []).append((words[5], "%", hash_password(words[-1])))
        elif line.startswith("GRANT"):
            rows.setdefault(GRANTS_QUERY, []).append((words[words.index("TO") + 1], words[4], "%"))
        elif line.strip().startswith("SELECT UTC_TIMESTAMP()"):
            values = line.split("'")[1::2]
            rows.setdefault(CELLS_QUERY, []).append((values[0], values[1], values[2], values[3]))
