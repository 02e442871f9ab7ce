"""Up and down of a lab. Each looks at what is there and does the rest, so that an interruption costs nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.kernel.ksm import Merging
from coordinator.lab import leftovers, wiring
from coordinator.lab.certificates import Authority
from coordinator.lab.daemons import COORDINATOR, Service, make_services, make_settings, make_uid, prove_uid
from coordinator.lab.locks import locked
from coordinator.lab.places import DEFAULT_LAB, LABS, RUN, Places
from coordinator.lab.processes import Process, forget, marked, running, start, stop, wait_gone
from coordinator.lab.readiness import wait_ready
from coordinator.lab.ssh_keys import make_ssh_keys
from coordinator.lab.status import check_root, recorded_text, roles
from coordinator.lab.sysctls import raise_limits, restore_limits
from coordinator.lab.topology import Role, Topology
from coordinator.lab.topology_file import load_topology, parse_topology, read_topology
from proto.errors import CaasError, Code

#: Held for moments, by whoever changes what all labs share: the machine's sysctls, folders above the labs'.
SHARED_LOCK = LABS / ".lock"
SHARED_WAIT = 30.0
MONITOR_WAIT = 5.0
Report = Callable[[str], None]


class Lab:
    """The lab in *places*. *report* is told, for people, what each phase did and how long it took."""

    def __init__(self, places: Places, report: Report) -> None:
        self._places = places
        self._report = report

    def up(self, file: Path | None) -> None:
        """Make everything that is not there yet. REFUSED where the lab is up with another topology than *file*'s."""
        check_root()
        text = read_topology(file) if file is not None else recorded_text(self._places)
        topology = parse_topology(text, str(file or self._places.topology))
        with locked(self._places.lock, what=f"lab {self._places.lab}"):
            self._check_same(topology, wanted=file is not None)
            wiring.check_free(topology, self._places)
            self._check_socket()
            os.umask(0o022)
            with self._phase("state", "folder made, limits raised"):
                self._prepare(text, topology)
            with self._phase("namespaces", f"{len(topology.namespaces)} namespaces and the wires between them"):
                wiring.build(topology, self._places)
            with self._phase("certificates", "one for each process, and a key for SSH"):
                services = self._certify(topology)
                hosts = [one.name for one in topology.machines.values() if one.role is Role.HOST]
                make_ssh_keys(self._places.ssh_key, map(self._places.authorized_keys, hosts), lab=self._places.lab)
            with self._phase("processes", f"{len(services)} processes"):
                started = {one.daemon.name: self._start(one) for one in services}
            with self._phase("ready", "every process serves"):
                wait_ready(services, started, self._places, machine=topology.coordinator, report=lambda name: None)
            self._link_socket()

    def down(self) -> bool:
        """Remove whatever of the lab is there; False where nothing was. FAILED names what could not be removed."""
        check_root()
        try:
            with locked(self._places.lock, what=f"lab {self._places.lab}"):
                if not self._exists():
                    return False
                left = self._remove_all()
        finally:
            _remove_shared_folders()
        if left:
            stayed = f"lab {self._places.lab} is down, but these stayed: {', '.join(left)}"
            raise CaasError(Code.FAILED, stayed, hint="end or remove them by hand")
        return True

    # -- up ------------------------------------------------------------------------------------------------

    def _check_same(self, topology: Topology, *, wanted: bool) -> None:
        recorded = self._places.topology
        if wanted and recorded.exists() and load_topology(recorded) != topology:
            lab = self._places.lab
            name = "" if lab == DEFAULT_LAB else f" --name {lab}"
            raise CaasError(
                Code.REFUSED,
                f"lab {lab} is there with another topology ({recorded})",
                hint=f"caas lab down{name}, or give the new one a name of its own",
            )

    def _check_socket(self) -> None:
        path = self._places.socket
        if not (path.is_symlink() or path.exists()) or _points_to(path, self._places.coordinator_socket):
            return
        what = "another process listens on it" if _listens(path) else "it is there and not of this lab"
        hint = "choose another name for the lab: caas lab up --name NAME; its socket is /run/caas/NAME/coordinator.sock"
        raise CaasError(Code.CONFLICT, f"{path}: {what}", hint=hint)

    def _prepare(self, text: bytes, topology: Topology) -> None:
        places = self._places
        with locked(SHARED_LOCK, what="what all labs share", wait=SHARED_WAIT):
            places.state.mkdir(mode=0o755, parents=True, exist_ok=True)
            raise_limits()
        if not places.topology.exists():
            _write(places.topology, text)
        _write(places.settings, make_settings(topology).encode())

    def _certify(self, topology: Topology) -> tuple[Service, ...]:
        places = self._places
        uid = make_uid(places.lab)
        if running(COORDINATOR, places) is not None:
            uid = places.coordinator.stat().st_uid
        elif reason := prove_uid(uid):
            self._report(f"warning: the coordinator runs as root: an ordinary user cannot use this checkout: {reason}")
            uid = 0
        authority = Authority(places.authority, places.lab)
        services = make_services(topology, places, uid=uid)
        for one in services:
            authority.issue(one.bearer, one.tls)
        for folder, owner in (
            (places.coordinator, uid),
            (places.coordinator / "state", uid),
            (places.coordinator_run, uid),
            *((places.run / "machines" / name, 0) for name in topology.machines),
        ):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            _give(folder, owner)
        return services

    def _start(self, service: Service) -> Process:
        places, name = self._places, service.daemon.name
        if (process := running(name, places)) is not None:
            return process
        # What an interrupted run started and did not write down. Monitors of running containers are not stopped:
        # they, and the containers, are the next agent's to adopt.
        inside, monitors = leftovers.container_processes(places)
        keep = {*inside, *monitors}
        stop([process for process, whose in marked(places).items() if whose == name and process not in keep])
        return start(service.daemon, places)

    def _link_socket(self) -> None:
        link, target = self._places.socket, self._places.coordinator_socket
        if _points_to(link, target):
            return
        temporary = self._places.run / "socket.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.rename(link)

    # -- down ----------------------------------------------------------------------------------------------

    def _exists(self) -> bool:
        places = self._places
        return (
            places.state.exists()
            or places.run.exists()
            or bool(wiring.owned_namespaces(places))
            or bool(marked(places))
            or _points_to(places.socket, places.coordinator_socket)
        )

    def _remove_all(self) -> tuple[str, ...]:
        """Remove everything, what runs before what it runs on; returns what stayed."""
        places = self._places
        with self._phase("processes", "daemons ended"):
            self._stop_daemons()
        with self._phase("containers", "stopped, their mounts and cgroups removed"):
            left = self._remove_containers()
        with self._phase("namespaces", "removed"):
            for who in leftovers.residents(wiring.namespace_inodes(places)):
                self._report(f"warning: {who} is not the lab's and still runs; its namespace goes with it")
            wiring.remove(places, unfinished=frozenset(roles(places)))
        with self._phase("state", "folders removed, limits restored"):
            self._remove_state()
        return left

    def _stop_daemons(self) -> None:
        places = self._places
        names = [path.name for path in places.pids.glob("*")] if places.pids.is_dir() else []
        left = stop([process for name in names if (process := running(name, places)) is not None])
        if left:
            raise CaasError(Code.FAILED, f"lab {places.lab}: pid {left[0].pid} does not end")
        for name in names:
            forget(name, places)

    def _remove_containers(self) -> tuple[str, ...]:
        """Stop every container, then what was started for the lab and is still there; returns what stayed."""
        places = self._places
        inside, monitors = leftovers.container_processes(places)
        # A monitor whose container has ended tidies up and ends by itself: quicker than asking each container.
        stayed = stop(inside, ask=False)
        stayed += stop(wait_gone(monitors, MONITOR_WAIT))
        stayed += stop(marked(places))
        stayed += stop((*inside, *monitors), ask=False)
        leftovers.unmount(places.state)
        kept = leftovers.remove_cgroups(leftovers.find_cgroups(places))
        return (*(f"pid {process.pid}" for process in stayed), *(f"cgroup {path}" for path in kept))

    def _remove_state(self) -> None:
        places = self._places
        if _points_to(places.socket, places.coordinator_socket):
            places.socket.unlink()
        for folder in (places.run, places.state):
            leftovers.unmount(folder)
            if folder.exists():
                leftovers.check_no_mounts(folder)
                shutil.rmtree(folder)
        leftovers.remove_lxc_locks(places.state)
        Merging(places.state).sweep()  # the agents that had the kernel merge pages are gone with their state
        with locked(SHARED_LOCK, what="what all labs share", wait=SHARED_WAIT):
            if not any(path.is_dir() for path in LABS.iterdir()):
                restore_limits()

    @contextlib.contextmanager
    def _phase(self, name: str, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._report(f"{name:<13} {what} ({time.monotonic() - began:.1f} s)")


def _remove_shared_folders() -> None:
    """Folders that others use too go when nobody does."""
    for folder in (RUN, LABS, LABS.parent):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _points_to(link: Path, target: Path) -> bool:
    try:
        return link.readlink() == target
    except OSError:  # it is not there, or no link
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _give(folder: Path, uid: int) -> None:
    """Hand *folder* and what is in it to *uid*: the coordinator's user may have changed since the last time."""
    for path in (folder, *folder.rglob("*")):
        if path.lstat().st_uid != uid:
            os.chown(path, uid, -1, follow_symlinks=False)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
