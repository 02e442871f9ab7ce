"""All steps of a cluster: which families of them its containers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.config import ClusterFile
from coordinator.devstack import make_devstack_steps
from coordinator.keepsake import KeepSecrets
from coordinator.known import keeper_of, site_of
from coordinator.nova import Look, Secrets, make_ssh_steps, make_steps
from coordinator.steps import Shell, Step
from coordinator.unique import make_unique_step
from proto.model import ClusterHost


def make_cluster_steps(
    file: ClusterFile,
    hosts: Mapping[str, ClusterHost],
    shells: Mapping[str, Shell],
    secrets: Secrets,
    *,
    nameservers: Mapping[str, Sequence[str]],
    publics: Mapping[str, str],
    is_settled: bool = False,
) -> tuple[Step, ...]:
    """The steps that follow when *hosts* are as desired. Pure.

    *shells* has one for each container, *nameservers* are those of each host, *publics* where the
    APIs are seen from outside. *is_settled*: the cluster was looked at
    when it was up last, and no clone is made now.
    """
    looks = {name: Look(shell) for name, shell in shells.items()}
    addresses = {one.hostname: one.nic.address.ip for host in hosts.values() for one in host.state.containers}
    site = site_of(file, dict(hosts), publics)
    with_ssh = {name: addresses[name] for name, spec in file.containers.items() if spec.ssh}
    steps: tuple[Step, ...] = (
        KeepSecrets(shells[keeper_of(file)], secrets),
        *make_ssh_steps(looks, with_ssh, secrets),
        *(make_steps(site, shells, secrets, looks=looks) if site else ()),
        *make_devstack_steps(file, shells, addresses, nameservers),
    )
    if is_settled or not any(spec.clone_of for spec in file.containers.values()):
        return steps
    # What is looked at is there once everything is installed; servers may boot meanwhile.
    installed = [step.id for step in steps if not step.id.startswith("verify/")]
    return (*steps, make_unique_step(shells, needs=installed))
