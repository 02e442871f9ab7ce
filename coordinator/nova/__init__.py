"""Nova's services as steps: what to configure where, in which order, and how to see that it is done.

site = make_site(cluster=…, containers=[…])      what the compiler knows
secrets = make_secrets()                          once per cluster, kept by the coordinator
steps = make_steps(site, shells, secrets)         pure; the engine runs them by their needs
"""

from coordinator.nova.client import clouds_yaml_text, openrc_text, openstack_argv
from coordinator.nova.cloud import nova_status
from coordinator.nova.compute import computes_at_once
from coordinator.nova.goals import Look
from coordinator.nova.make import make_steps
from coordinator.nova.roles import Role
from coordinator.nova.secrets import Secrets, make_secrets
from coordinator.nova.site import Member, Options, Site, make_site
from coordinator.nova.ssh import make_ssh_steps
from coordinator.nova.verify import boot_test

__all__ = [
    "Look",
    "Member",
    "Options",
    "Role",
    "Secrets",
    "Site",
    "boot_test",
    "clouds_yaml_text",
    "computes_at_once",
    "make_secrets",
    "make_site",
    "make_ssh_steps",
    "make_steps",
    "nova_status",
    "openrc_text",
    "openstack_argv",
]
