"""A cluster that is known: its file as it was last brought up, and ways into its containers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.config import ClusterFile, Surroundings, load_bytes
from coordinator.fleet import AgentClient, AgentShell, Fleet
from coordinator.journal import NATBOX, Journal, Record
from coordinator.nova import Role, Secrets, Site, make_site
from coordinator.reading import Reading
from coordinator.survey import desired_of
from proto.errors import CaasError, Code
from proto.model import ClusterHost

#: Key of Compiled.publics in Record.remembered.
PUBLICS = "publics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One cluster of the journal."""

    record: Record
    file: ClusterFile
    hosts: dict[str, ClusterHost]
    fleet: Fleet

    @classmethod
    def find(cls, fleet: Fleet, journal: Journal, name: str) -> Known:
        """The cluster *name*; NOT_FOUND lists those that are known."""
        record = journal.find(name)
        if record is None:
            names = ", ".join(found.name for found in journal.clusters()) or "none"
            raise CaasError(Code.NOT_FOUND, f"no cluster {name}; known: {names}", hint="`caas up FILE` makes one")
        return cls(record=record, file=file_of(record), hosts=desired_of(record), fleet=fleet)

    @property
    def secrets(self) -> Secrets:
        return Secrets.from_dict(json.loads(self.record.secrets))

    @property
    def publics(self) -> dict[str, str]:
        """Where its APIs are seen from outside, ADDRESS:PORT by service, as it was last brought up."""
        return dict(json.loads(self.record.remembered).get(PUBLICS, {}))

    @property
    def site(self) -> Site:
        """The cluster as nova's steps see it. UNSUPPORTED where stack.sh has set up all of it."""
        if (site := site_of(self.file, self.hosts, self.publics)) is not None:
            return site
        where = f"{self.file.name} {keeper_of(self.file)}"
        raise CaasError(
            Code.UNSUPPORTED,
            f"{self.file.name}: its services are those of devstack_repo, which caas does not know",
            hint=f"DevStack's own credentials: caas exec {where} -- cat /home/rally/devstack/openrc",
        )

    def agent(self, host: str) -> AgentClient:
        """The agent of one of the cluster's hosts."""
        return self.fleet.agent(host, str(self.file.hosts[host].address))

    def shell(self, container: str) -> AgentShell:
        """A way into *container*; NOT_FOUND lists the cluster's containers."""
        spec = self.file.containers.get(container)
        if spec is None:
            names = ", ".join(self.file.containers)
            raise CaasError(Code.NOT_FOUND, f"{self.file.name} has no container {container}; it has {names}")
        return AgentShell(self.agent(spec.host), self.file.name, container)

    def api_shell(self) -> AgentShell:
        """A way into the container that has nova's API, where the client and the credentials are."""
        return self.shell(self.site.holder(Role.NOVA_API).hostname)


def file_of(record: Record) -> ClusterFile:
    """The cluster file as it was last brought up."""
    surroundings = Surroundings.from_dict(json.loads(record.surroundings))
    return load_bytes(record.file, file=record.file_name, name=record.name, surroundings=surroundings)


def reading_of(record: Record) -> Reading:
    """The file of *record* as it was read then."""
    surroundings = Surroundings.from_dict(json.loads(record.surroundings))
    return Reading(file=file_of(record), content=record.file, file_name=record.file_name, surroundings=surroundings)


def holders_of(file: ClusterFile) -> dict[str, str]:
    """Who gets something of the cluster of *file*: name -> address."""
    found = {host.name: str(host.address) for host in file.hosts.values() if host.address is not None}
    return found | ({NATBOX: str(file.natbox.address)} if file.natbox else {})


def keeper_of(file: ClusterFile) -> str:
    """The container that keeps the cluster's secrets: that of nova's API, or the first where stack.sh makes nova."""
    holders = (
        name for name, spec in file.containers.items() if spec.devstack is None and str(Role.NOVA_API) in spec.roles
    )
    return next(holders, next(iter(file.containers)))


def site_of(file: ClusterFile, hosts: dict[str, ClusterHost], publics: Mapping[str, str]) -> Site | None:
    """The cluster of *file* as nova's steps see it, with the addresses that were allocated.

    Without containers that stack.sh sets up; None where there is no other.
    """
    if not file.has_nova:
        return None
    by_name = {container.hostname: container for host in hosts.values() for container in host.state.containers}
    return make_site(
        cluster=file.name,
        containers=[
            {"hostname": name, "address": by_name[name].nic.address.ip, "roles": by_name[name].roles}
            for name, spec in file.containers.items()
            if spec.devstack is None
        ],
        region=file.nova.region,
        virt_driver=file.nova.virt_driver,
        options={"api_workers": file.nova.api_workers},
        publics=publics,
    )
