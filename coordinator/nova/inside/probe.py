"""Runs inside a container: look at files, units, ports and rows, all at once, and print one JSON document.

It changes nothing. Anything that cannot be seen is shown as absent: a probe never fails.
"""

import grp
import hashlib
import json
import os
import pwd
import socket
import subprocess
import sys
from typing import Any

STARTED = "/run/caas/started/"
MARK = "caas query "


def look_at_file(path: str) -> list[str] | None:
    """[sha256, mode in octal, owner, group], or None."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None
    return [
        digest,
        f"{status.st_mode & 0o7777:04o}",
        _name(pwd.getpwuid, status.st_uid),
        _name(grp.getgrgid, status.st_gid),
    ]


def _name(lookup: Any, number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def look_at_units(units: list[str]) -> dict[str, dict[str, str]]:
    """Each unit's ActiveState, and what it noted at its last start that it was about to read."""
    if not units:
        return {}
    argv = ["systemctl", "show", "-p", "ActiveState", "--value", *(f"{unit}.service" for unit in units)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    states = done.stdout.split() or ["unknown"] * len(units)
    seen = {}
    for unit, state in zip(units, states, strict=False):
        try:
            with open(STARTED + unit) as file:
                started = file.read()
        except OSError:
            started = ""
        seen[unit] = {"active": state, "started": started}
    return seen


def look_at_http(place: str) -> int:
    """The status of a GET of HOST:PORT/PATH, or 0 where nobody answers."""
    address, _, path = place.partition("/")
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            return int(connection.recv(64).split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def look_at_port(place: str) -> bool:
    """Whether HOST:PORT takes connections."""
    host, _, port = place.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def look_at_rows(queries: list[str]) -> dict[str, list[list[str]]]:
    """The rows of each query, through the database's unix socket; a failed query has none."""
    if not queries:
        return {}
    # A line of our own before each answer tells them apart, also where one is empty or its query fails.
    text = "".join(f"SELECT '{MARK}{number}';\n{query};\n" for number, query in enumerate(queries))
    argv = ["mariadb", "--batch", "--skip-column-names", "--force"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    rows: dict[str, list[list[str]]] = {query: [] for query in queries}
    current: list[list[str]] = []
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            current = rows[queries[int(line.removeprefix(MARK))]]
        else:
            current.append(line.split("\t"))
    return rows


def main(wanted: dict[str, list[str]]) -> None:
    """*wanted*: files (paths), units (names), http (HOST:PORT/PATH), ports (HOST:PORT), rows (queries)."""
    json.dump(
        {
            "files": {path: look_at_file(path) for path in wanted["files"]},
            "units": look_at_units(wanted["units"]),
            "http": {place: look_at_http(place) for place in wanted["http"]},
            "ports": {place: look_at_port(place) for place in wanted["ports"]},
            "rows": look_at_rows(wanted["rows"]),
        },
        sys.stdout,
    )
