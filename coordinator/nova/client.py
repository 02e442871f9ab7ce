"""How people reach the cluster: openrc and clouds.yaml, and the stock client beside the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.nova.goals import File
from coordinator.nova.secrets import Secrets
from coordinator.nova.site import Site
from coordinator.nova.urls import INTERNAL, keystone_url

OPENRC = "/root/openrc"
#: The stock client speaks 2.1 unless told otherwise, and knows then no `--network none` (2.37) and no `--host` (2.74).
COMPUTE_API_VERSION = "2.74"
#: Debian's python3-openstackclient, which nova-common depends on. The shell reads the password; no argv has it.
_RUN_CLIENT = f'. {OPENRC} && exec openstack "$@"'


def make_settings(site: Site, secrets: Secrets, interface: str = INTERNAL) -> Mapping[str, str]:
    """The OS_* variables of the administrator who uses the endpoints of *interface* (one of urls.INTERFACES)."""
    return {
        "OS_AUTH_URL": keystone_url(site, interface),
        "OS_IDENTITY_API_VERSION": "3",
        "OS_USERNAME": "admin",
        "OS_PASSWORD": secrets.admin_password,
        "OS_PROJECT_NAME": "admin",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": site.region,
        "OS_INTERFACE": interface,
        "OS_COMPUTE_API_VERSION": COMPUTE_API_VERSION,
    }


def openrc_text(site: Site, secrets: Secrets, interface: str = INTERNAL) -> str:
    """The text of an openrc file. It holds the administrator's password: only for the user's own terminal."""
    return "".join(f"export {name}='{value}'\n" for name, value in make_settings(site, secrets, interface).items())


def clouds_yaml_text(site: Site, secrets: Secrets, interface: str = INTERNAL) -> str:
    """The text of a clouds.yaml with one cloud, called like the cluster. It holds the administrator's password."""
    settings = make_settings(site, secrets, interface)
    return (
        "clouds:\n"
        f"  {site.cluster}:\n"
        "    auth:\n"
        f"      auth_url: {settings['OS_AUTH_URL']}\n"
        f"      username: {settings['OS_USERNAME']}\n"
        f"      password: '{settings['OS_PASSWORD']}'\n"
        f"      project_name: {settings['OS_PROJECT_NAME']}\n"
        f"      user_domain_name: {settings['OS_USER_DOMAIN_NAME']}\n"
        f"      project_domain_name: {settings['OS_PROJECT_DOMAIN_NAME']}\n"
        f"    region_name: {settings['OS_REGION_NAME']}\n"
        f"    interface: {settings['OS_INTERFACE']}\n"
        "    identity_api_version: 3\n"
        f"    compute_api_version: '{settings['OS_COMPUTE_API_VERSION']}'\n"
    )


def make_openrc_file(site: Site, secrets: Secrets) -> File:
    """root's openrc in a container with an API."""
    return File(path=OPENRC, content=openrc_text(site, secrets), mode="0600")


def openstack_argv(args: Sequence[str]) -> tuple[str, ...]:
    """What to run in the container with the role nova-api for `caas openstack NAME -- ARGS`."""
    return ("/bin/sh", "-c", _RUN_CLIENT, "openstack", *args)
