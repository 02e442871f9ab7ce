"""Where a lab keeps what: names of namespaces, folders, sockets. All derive from the lab's name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proto.names import check_cluster_name

DEFAULT_LAB = "lab"
LABS = Path("/var/lib/caas/labs")
RUN = Path("/run/caas")
DEFAULT_SOCKET = RUN / "coordinator.sock"
LABEL_PREFIX = "caas-lab"
"""Not the mark of proto.marks: an agent must not take its own machine's loopback for something it made."""


@dataclass(frozen=True, slots=True)
class Places:
    """The places of the lab called *lab* (a cluster's name by its rules, at most 32 characters)."""

    lab: str

    def __post_init__(self) -> None:
        check_cluster_name(self.lab)

    @property
    def state(self) -> Path:
        return LABS / self.lab

    @property
    def lock(self) -> Path:
        """Held by whoever changes the lab. A dot is in no lab's name."""
        return LABS / f"{self.lab}.lock"

    @property
    def topology(self) -> Path:
        """The topology file that the lab was brought up with."""
        return self.state / "topology.yaml"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def pids(self) -> Path:
        return self.state / "pid"

    @property
    def authority(self) -> Path:
        """The lab's CA: certificate and key."""
        return self.state / "ca"

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder: `tls` and `state` in it."""
        return self.state / "coordinator"

    @property
    def settings(self) -> Path:
        """The coordinator's configuration file."""
        return self.state / "config.yaml"

    def machine(self, name: str) -> Path:
        """The folder of a machine's daemon: `tls` and `state` in it."""
        return self.state / "machines" / name

    @property
    def ssh_key(self) -> Path:
        """The private key that the lab's hosts, and with them their containers, let in."""
        return self.state / "ssh" / "id_ed25519"

    def authorized_keys(self, name: str) -> Path:
        """What stands in a host for its /root/.ssh/authorized_keys."""
        return self.machine(name) / "authorized_keys"

    @property
    def run(self) -> Path:
        return RUN / self.lab

    @property
    def coordinator_run(self) -> Path:
        """Belongs to the coordinator's user, who makes the socket in it."""
        return self.run / "coordinator"

    @property
    def coordinator_socket(self) -> Path:
        """Where the coordinator listens."""
        return self.coordinator_run / "coordinator.sock"

    @property
    def socket(self) -> Path:
        """Where clients find the coordinator: a link to its socket, since its user may not write to /run/caas."""
        return DEFAULT_SOCKET if self.lab == DEFAULT_LAB else self.run / "coordinator.sock"

    def namespace(self, name: str) -> str:
        """The network namespace of a machine or switch."""
        return f"{self.lab}-{name}"

    def label(self, name: str) -> str:
        """What that namespace carries, so that no other lab's or person's namespace is taken for it."""
        return f"{LABEL_PREFIX}:{self.lab}:{name}"
