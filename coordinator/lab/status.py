"""A lab as it is: read from the kernel and from /proc, remembered nowhere."""

from __future__ import annotations

import os
from dataclasses import dataclass

from coordinator.lab import wiring
from coordinator.lab.daemons import COORDINATOR, daemon_name
from coordinator.lab.places import Places
from coordinator.lab.processes import running
from coordinator.lab.topology import Topology
from coordinator.lab.topology_file import default_text, parse_topology
from proto.errors import CaasError, Code


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStatus:
    """A machine or switch as it is: its daemon's pid (0: none runs), and IPv4 addresses as (link, ADDRESS/LEN)."""

    name: str
    role: str
    namespace: str
    pid: int
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabStatus:
    """A lab as it is; no machines where it is down. `ssh_key`: the private key that its containers let in, or ""."""

    lab: str
    coordinator: str
    coordinator_pid: int
    ssh_key: str
    machines: tuple[MachineStatus, ...]

    def document(self) -> dict[str, object]:
        """What `caas lab status --json` prints (design.md)."""
        return {
            "lab": self.lab,
            "coordinator": self.coordinator,
            "ssh_key": self.ssh_key,
            "hosts": {
                machine.name: {
                    "namespace": machine.namespace,
                    "pid": machine.pid,
                    "addresses": [{"link": link, "address": address} for link, address in machine.addresses],
                }
                for machine in self.machines
            },
        }


def observe(places: Places) -> LabStatus:
    """What is there of the lab in *places* now."""
    check_root()
    owned, known = wiring.owned_namespaces(places), roles(places)
    order = [*known, *sorted(owned.keys() - known.keys())]
    coordinator = running(COORDINATOR, places)
    return LabStatus(
        lab=places.lab,
        coordinator=str(places.socket),
        coordinator_pid=coordinator.pid if coordinator else 0,
        ssh_key=str(places.ssh_key) if places.ssh_key.exists() else "",
        machines=tuple(_observe_machine(name, owned[name], known, places) for name in order if name in owned),
    )


def roles(places: Places) -> dict[str, str]:
    """Machine or switch -> what it is, in the topology file's order; empty where the file cannot be read any more."""
    try:
        topology = parse_topology(recorded_text(places), str(places.topology))
    except CaasError:
        return {}
    return _roles_of(topology)


def recorded_text(places: Places) -> bytes:
    """The topology file that the lab was brought up with; the default one where it was not."""
    return places.topology.read_bytes() if places.topology.exists() else default_text()


def check_root() -> None:
    """UNSUPPORTED unless this process is root's."""
    if os.geteuid() != 0:
        what = "a lab consists of network namespaces: only root can make, enter or remove them"
        raise CaasError(Code.UNSUPPORTED, what, hint="use sudo")


def _observe_machine(name: str, namespace: str, known: dict[str, str], places: Places) -> MachineStatus:
    role = known.get(name, "unknown")
    process = running(daemon_name(name, role), places)
    return MachineStatus(
        name=name,
        role=role,
        namespace=namespace,
        pid=process.pid if process else 0,
        addresses=tuple(
            (link.name, str(address)) for link in wiring.observe(namespace).values() for address in link.addresses
        ),
    )


def _roles_of(topology: Topology) -> dict[str, str]:
    machines = {machine.name: machine.role.value for machine in topology.machines.values()}
    return {**machines, **dict.fromkeys(topology.switches, "switch")}
