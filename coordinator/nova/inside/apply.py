"""Runs inside a container: write files, run commands, start units, wait until they serve.

What is as wanted already is left alone: a file is written only where it differs, a unit is restarted only where
what it read at its start differs. So it can be run again after it died half-way.
"""

import grp
import hashlib
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

STARTED = "/run/caas/started/"
#: Where systemctl talks to systemd before and without D-Bus.
SYSTEMD = "/run/systemd/private"
PAUSE = 0.05
LOG_LINES = 12
#: How long systemd's own restarts are waited for after a start that failed.
RESTART_SECONDS = 40.0


def write_file(entry: dict[str, Any]) -> None:
    """Make the file of *entry* (path, content, mode, owner, group) as it says, by rename, never readable before."""
    path, content = str(entry["path"]), str(entry["content"]).encode()
    uid, gid = pwd.getpwnam(entry["owner"]).pw_uid, grp.getgrnam(entry["group"]).gr_gid
    mode = int(entry["mode"], 8)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            same = (file.read(), status.st_mode & 0o7777, status.st_uid, status.st_gid) == (content, mode, uid, gid)
    except OSError:
        same = False
    if same:
        return
    make_folder(os.path.dirname(path), uid, gid, entry.get("folder_mode", ""))
    number, temporary = tempfile.mkstemp(prefix=".caas-", dir=os.path.dirname(path))  # 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            os.fchown(number, uid, gid)
            os.fchmod(number, mode)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def make_folder(folder: str, uid: int, gid: int, mode: str) -> None:
    """*folder*, with an owner and a mode of its own where *mode* is given."""
    os.makedirs(folder, exist_ok=True)
    if mode:
        os.chown(folder, uid, gid)
        os.chmod(folder, int(mode, 8))


def run_command(command: dict[str, Any]) -> None:
    """Run its argv with its stdin and env; die with its last lines where it fails."""
    environment = {**os.environ, **command.get("env", {})}
    done = subprocess.run(
        command["argv"],
        input=command.get("stdin", ""),
        env=environment,
        user=command.get("user"),
        group=command.get("user"),
        extra_groups=[] if command.get("user") else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()[-LOG_LINES:]
        sys.exit("\n".join([f"{command['argv'][0]} ended with {done.returncode}", *lines]))


def wait_for_systemd(deadline: float) -> None:
    """Wait until systemd takes requests: a container counts as started as soon as its init runs."""
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(SYSTEMD)
                return
            except OSError:
                time.sleep(PAUSE)
    sys.exit(f"systemd takes no requests at {SYSTEMD}")


def _active(unit: str) -> str:
    argv = ["systemctl", "show", "-p", "ActiveState", "--value", f"{unit}.service"]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.strip()


def start_unit(unit: dict[str, Any]) -> None:
    """Start it, or restart it where it runs with other files than those listed in its `reads`."""
    name, reads = str(unit["name"]), unit["reads"]
    wanted = "".join(f"{hashlib.sha256(_read(path)).hexdigest()}  {path}\n" for path in reads)
    state, as_wanted = _active(name), _read(STARTED + name).decode() == wanted
    if state == "active" and as_wanted:
        return
    # One that is just starting is waited for, unless it has read other files.
    verb = "start" if state == "inactive" or (state == "activating" and as_wanted) else "restart"
    argv = ["systemctl", verb, f"{name}.service"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    # Where the first try failed, systemd makes another: on a loaded machine a service may lose its patience once.
    patience = time.monotonic() + RESTART_SECONDS
    while done.returncode != 0 and _active(name) == "activating" and time.monotonic() < patience:
        time.sleep(4 * PAUSE)
    if _active(name) != "active":
        give_up(name, f"{name} did not start")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def give_up(unit: str, why: str) -> None:
    """Die with *why* and the last lines of the unit's journal and log."""
    argv = ["journalctl", "--no-pager", "--output=cat", "-n", str(LOG_LINES), "-u", f"{unit}.service"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    sys.exit("\n".join([why, *done.stdout.splitlines()]))


def wait_for(unit: str, place: str, deadline: float) -> None:
    """Wait until HOST:PORT takes connections, or HOST:PORT/PATH answers with a status below 400."""
    address, slash, path = place.partition("/")
    host, _, port = address.partition(":")
    last = "nobody listens"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), timeout=deadline - time.monotonic()) as connection:
                if not slash:
                    return
                connection.sendall(f"GET /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                last = connection.recv(64).split(b"\r\n")[0].decode(errors="replace")
                if last.split()[1:2] and int(last.split()[1]) < 400:
                    return
        except (OSError, ValueError) as exc:
            last = str(exc)
        time.sleep(PAUSE)
    give_up(unit, f"{unit}: {place} did not answer in time: {last}")


def main(job: dict[str, Any]) -> None:
    """*job*: files, before (commands), units, wait ([unit, place]), after (commands), seconds."""
    deadline = time.monotonic() + float(job["seconds"])
    for entry in job["files"]:
        write_file(entry)
    for command in job["before"]:
        run_command(command)
    if job["units"]:
        wait_for_systemd(deadline)
    for unit in job["units"]:
        start_unit(unit)
    for unit, place in job["wait"]:
        wait_for(unit, place, deadline)
    for command in job["after"]:
        run_command(command)
