"""A lab whose daemons can be killed at their points, and whose machines can lose their power."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from unittest import mock

from coordinator.lab import daemons, processes
from coordinator.lab.lab import Lab
from coordinator.lab.places import Places
from tests.support.demonstration import ROOT, LabUser
from tests.support.killing.points import IMAGES, VARIABLE

HOSTS = ("host1", "host2")
NATBOX, COORDINATOR = "natbox", "coordinator"
MACHINES = (*HOSTS, NATBOX)
#: Where the other ends of the machines' cables are.
SWITCHES = ("management", "trunk", "outside")
#: The coordinator's process lives there, as in every default lab.
OF_COORDINATOR = "host1"
_PATIENCE = 20.0


def machine_of(daemon: str) -> str:
    """The machine of what `agent.host1`, `worker.host1`, `natbox` or `coordinator` names."""
    return OF_COORDINATOR if daemon == COORDINATOR else daemon.rpartition(".")[2]


class KillLab:
    """The default lab under the name *name*. With *images*, containers are small ones from there."""

    def __init__(self, name: str, *, images: Path | None = None) -> None:
        self.user = LabUser(name)
        self.places = Places(name)
        self._images = images
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> KillLab:
        modules = {part: f"tests.support.killing.{part}" for part in daemons.MODULES}
        given = {"PYTHONPATH": str(ROOT), VARIABLE: str(self._points)}
        given |= {IMAGES: str(self._images)} if self._images else {}
        self._undo.enter_context(mock.patch.dict(daemons.MODULES, modules))
        self._undo.enter_context(mock.patch.dict(processes.CLEAN, given))
        self._undo.callback(self.down)
        with self._undo.pop_all() as undo:
            self._make_points()
            self.up()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def renew(self) -> None:
        """Another lab in its place, as after the first `up`."""
        self.down()
        self._make_points()
        self.up()

    def _make_points(self) -> None:
        self._points.mkdir(parents=True)
        self._points.chmod(0o777)  # the coordinator is an ordinary user

    @property
    def _points(self) -> Path:
        return self.places.run / "points"

    def up(self) -> None:
        """Start what does not run, make what is missing; as the supervision of a daemon, or a boot, would."""
        before = os.umask(0o022)
        try:
            self._reap()
            Lab(self.places, lambda _: None).up(None)
        finally:
            os.umask(before)

    def _reap(self) -> None:
        """The daemons are our children: what is left of those that were killed."""
        for path in self.places.pids.glob("*"):
            with contextlib.suppress(ChildProcessError, ValueError):
                os.waitpid(int(json.loads(path.read_text())["pid"]), os.WNOHANG)

    def keep_logs(self, folder: Path) -> None:
        """Copy to *folder*, made anew, what daemons and containers have said and saved: it goes with the lab."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept = (*self.places.log.glob("*"), *self.places.state.glob("machines/*/state/desired/*"))
        kept += (*self.places.state.glob("machines/*/state/containers/*/lxc.log"), *self._points.glob("*"))
        for path in filter(Path.is_file, kept):
            shutil.copy(path, folder / "-".join(path.relative_to("/").parts[-4:]))

    def down(self) -> None:
        """Remove the lab whole."""
        Lab(self.places, lambda _: None).down()

    # -- points

    def count(self, *names: str) -> None:
        """Note the points that the daemons reach from now on; none is killed."""
        for name in names:
            self._arm(name, [])

    def kill_at(self, daemon: str, what: str, nth: int) -> None:
        """Let *daemon* be killed when it reaches the point *what* for the *nth* time from now."""
        self._arm(daemon, [{"what": what, "nth": nth}])

    def kill_at_first(self, daemon: str, whats: Collection[str], *, tell: Collection[str] = ()) -> None:
        """Let *daemon* be killed at the first of *whats*; at one of *tell* it goes on. `killed_at` says which."""
        self._arm(daemon, [{"what": what, "nth": 1, "tell": what in tell} for what in (*whats, *tell)])

    def _arm(self, name: str, wanted: list[dict[str, object]]) -> None:
        for word in ("reached", "killed"):
            (self._points / f"{name}.{word}").unlink(missing_ok=True)
        temporary = self._points / f".{name}.armed"
        temporary.write_text(json.dumps(wanted))
        temporary.chmod(0o666)
        temporary.rename(self._points / f"{name}.armed")

    def disarm(self) -> None:
        """No point counts from now on."""
        for armed in self._points.glob("*.armed"):
            armed.unlink(missing_ok=True)

    def reached(self, name: str) -> list[str]:
        """The points that the daemon has reached since it was last told to count."""
        path = self._points / f"{name}.reached"
        return path.read_text().splitlines() if path.exists() else []

    def was_killed(self, name: str) -> bool:
        """Whether it has reached what it was to be killed at, or to tell."""
        return bool(self.killed_at(name))

    def killed_at(self, name: str) -> str:
        """What it has reached of what it was to be killed at, or to tell; "" before."""
        path = self._points / f"{name}.killed"
        return str(json.loads(path.read_text())["what"]) if path.exists() else ""

    # -- harm

    def kill_agent(self, host: str) -> None:
        """kill -9 of its agent, from outside."""
        process = processes.running(f"caas-agent.{host}", self.places)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)

    def lose_power(self, machine: str) -> None:
        """All processes of *machine* are gone, and its links, cgroups and tmpfs with them. Its disk stays."""
        end = time.monotonic() + _PATIENCE
        while pids := [*self._residents(machine), *self._contained(machine)]:
            assert time.monotonic() < end, f"{machine}: {pids} do not end"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        subprocess.run(["ip", "netns", "del", self.places.namespace(machine)], check=True)
        for folder in sorted(self.cgroups(machine), key=lambda path: -len(path.parts)):
            while folder.is_dir():
                assert time.monotonic() < end, f"{folder} stays"
                with contextlib.suppress(OSError):
                    folder.rmdir()
        state = self.places.machine(machine) / "state"
        for folder in (self.places.run / "machines" / machine, Path("/run/lxc/lock") / state.relative_to("/")):
            shutil.rmtree(folder, ignore_errors=True)
        while any(self._plugs(machine)):  # a veth pair goes some milliseconds after its namespace
            assert time.monotonic() < end, f"{machine}: its cables stay"
            time.sleep(0.02)
        for other in MACHINES:  # a host that boots has the MACs that it had; a lab makes others
            if other != machine:
                subprocess.run(["ip", "-n", self.places.namespace(other), "neigh", "flush", "all"], check=True)

    def _residents(self, machine: str) -> Iterator[int]:
        """Whoever lives in its network namespace."""
        inode = os.stat(f"/run/netns/{self.places.namespace(machine)}").st_ino
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    yield int(entry)

    def _contained(self, machine: str) -> Iterator[int]:
        for folder in self.cgroups(machine):
            with contextlib.suppress(OSError):
                yield from map(int, (folder / "cgroup.procs").read_text().split())

    def cgroups(self, machine: str) -> list[Path]:
        """The cgroups of its containers, in every hierarchy (docs/architecture.md says their names)."""
        lxcpath = self.places.machine(machine) / "state" / "containers"
        name = f"caas-{hashlib.sha256(str(lxcpath).encode()).hexdigest()[:12]}"
        tops = [Path(folder, name) for folder, inner, _ in os.walk("/sys/fs/cgroup") if name in inner]
        return [Path(folder) for top in tops for folder, _, _ in os.walk(top)]

    def _plugs(self, machine: str) -> Iterator[str]:
        for switch in SWITCHES:
            argv = ["ip", "-json", "-n", self.places.namespace(switch), "link"]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            for link in json.loads(done.stdout):
                is_uplink = machine == NATBOX and switch == "outside" and link["ifname"] != "lo"
                if is_uplink or link["ifname"].startswith(f"{machine}."):
                    yield link["ifname"]
