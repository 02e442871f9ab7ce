"""Which processes a lab needs, as docs/architecture.md calls them, and who the coordinator may be."""

from __future__ import annotations

import pwd
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from coordinator.lab.certificates import Bearer
from coordinator.lab.places import Places
from coordinator.lab.processes import Daemon, as_user, run
from coordinator.lab.topology import AGENT_PORT, NATBOX, NATBOX_PORT, Machine, Role, Topology
from proto.errors import CaasError, Code

COORDINATOR = "caas-coordinator"
#: Where systemd takes the users of DynamicUser= from (systemd.exec(5)): no account has one of these for good.
UID_MIN, UID_MAX = 61184, 65519
MODULES = {"coordinator": "coordinator.rpc.main", "agent": "agent.rpc.main", "natbox": "natbox.main"}
PROOF_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A daemon with its certificate: whose it is, and the folder it goes to. *address* is where it serves."""

    daemon: Daemon
    bearer: Bearer
    tls: Path
    address: str


def make_services(topology: Topology, places: Places, *, uid: int) -> tuple[Service, ...]:
    """An agent for each host, NATBox's daemon, and the coordinator, who runs as *uid*."""
    services = [
        _agent(machine, places) if machine.role is Role.HOST else _natbox(machine, places)
        for machine in topology.machines.values()
        if machine.role in (Role.HOST, Role.NATBOX)
    ]
    return (*services, _coordinator(topology, places, uid))


def make_settings(topology: Topology) -> str:
    """The coordinator's configuration file: the lab's agents, and its own host as `localhost`."""
    agents = [machine for machine in topology.machines.values() if machine.role is Role.HOST]
    lines = [f"  {machine.name}: {machine.management}" for machine in agents]
    return "\n".join(["agents:", *lines, f"localhost: {topology.coordinator}", *_pair_lines(topology), ""])


def _pair_lines(topology: Topology) -> list[str]:
    """Two NATBoxes, and the uplink's address that goes with the one that works."""
    natboxes = topology.natboxes
    if len(natboxes) < 2:
        return []
    shared = [str(nic.address) for one in natboxes for nic in one.nics if nic.name == one.uplink and nic.address]
    addresses = ", ".join(str(one.management) for one in natboxes)
    return ["natbox:", f"  addresses: [{addresses}]", f"  shared: [{', '.join(shared)}]"]


def daemon_name(machine: str, role: str) -> str:
    """What the daemon of a machine is called in the lab, whether the machine has one or not."""
    return f"caas-{machine}" if role == Role.NATBOX.value else f"caas-agent.{machine}"


def make_uid(lab: str) -> int:
    """A uid for the coordinator of *lab*: always the same for a name, and nobody's account."""
    span = UID_MAX - UID_MIN + 1
    first = zlib.crc32(lab.encode()) % span
    for offset in range(span):
        uid = UID_MIN + (first + offset) % span
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    raise CaasError(Code.NO_ROOM, f"every uid from {UID_MIN} to {UID_MAX} has an account")


def prove_uid(uid: int) -> str:
    """Why *uid* cannot import the coordinator and all that it needs; "" where it can.

    A checkout below /root, or packages that only root may read, are the usual reasons. That root cannot import it
    either is no such reason: the daemon's own log will say more.
    """
    command = [sys.executable, "-c", f"import {MODULES['coordinator']}"]
    status, said = run([*as_user(uid), *command], timeout=PROOF_TIMEOUT)
    if status == 0 or run(command, timeout=PROOF_TIMEOUT)[0] != 0:
        return ""
    return said.strip().splitlines()[-1] if said.strip() else f"exit status {status}"


def _agent(machine: Machine, places: Places) -> Service:
    folder = places.machine(machine.name)
    address = f"{machine.management}:{AGENT_PORT}"
    argv = _python(
        "agent",
        {
            "--name": machine.name,
            "--listen": address,
            "--tls": folder / "tls",
            "--state": folder / "state",
            "--run": places.run / "machines" / machine.name,
            "--authorized-keys": places.authorized_keys(machine.name),
        },
    )
    return Service(
        daemon=Daemon(name=daemon_name(machine.name, machine.role.value), machine=machine.name, argv=argv),
        bearer=Bearer(uri=f"caas:agent:{machine.name}", hostname=machine.name, address=machine.management),
        tls=folder / "tls",
        address=address,
    )


def _natbox(machine: Machine, places: Places) -> Service:
    folder = places.machine(machine.name)
    address = f"{machine.management}:{NATBOX_PORT}"
    argv = _python(
        "natbox",
        {
            "--listen": address,
            "--tls": folder / "tls",
            "--state": folder / "state",
            "--trunk": machine.trunk,
            "--uplink": machine.uplink,
        },
    )
    return Service(
        daemon=Daemon(name=daemon_name(machine.name, machine.role.value), machine=machine.name, argv=argv),
        bearer=Bearer(uri="caas:natbox", hostname=NATBOX, address=machine.management),
        tls=folder / "tls",
        address=address,
    )


def _coordinator(topology: Topology, places: Places, uid: int) -> Service:
    folder = places.coordinator
    argv = _python(
        "coordinator",
        {
            "--socket": places.coordinator_socket,
            "--tls": folder / "tls",
            "--state": folder / "state",
            "--config": places.settings,
        },
    )
    return Service(
        daemon=Daemon(name=COORDINATOR, machine=topology.coordinator, argv=argv, uid=uid),
        bearer=Bearer(
            uri="caas:coordinator",
            hostname=topology.coordinator,
            address=topology.machine(topology.coordinator).management,
            uid=uid,
        ),
        tls=folder / "tls",
        address=f"unix:{places.coordinator_socket}",
    )


def _python(part: str, options: dict[str, object]) -> tuple[str, ...]:
    words = [str(word) for pair in options.items() for word in pair]
    return (sys.executable, "-m", MODULES[part], *words)
