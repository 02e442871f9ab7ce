"""Where services listen and how they are reached."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.nova.secrets import Secrets
from coordinator.nova.site import Role, Site

#: The ports that OpenStack documents for each API.
PORTS: Mapping[Role, int] = {
    Role.KEYSTONE: 5000,
    Role.GLANCE: 9292,
    Role.PLACEMENT: 8778,
    Role.NOVA_API: 8774,
    Role.DATABASE: 3306,
    Role.MESSAGING: 5672,
}


def place(site: Site, role: Role) -> str:
    """`ADDRESS:PORT` of the service of *role*."""
    return f"{site.address(role)}:{PORTS[role]}"


def keystone_url(site: Site) -> str:
    return f"http://{place(site, Role.KEYSTONE)}/v3"


def database_url(site: Site, user: str, password: str, database: str) -> str:
    """How a service reaches its schema. The password is in it."""
    return f"mysql+pymysql://{user}:{password}@{place(site, Role.DATABASE)}/{database}?charset=utf8"


def transport_url(site: Site, secrets: Secrets) -> str:
    """How a service reaches the message broker. The password is in it."""
    return f"rabbit://caas:{secrets.rabbit_password}@{place(site, Role.MESSAGING)}/"
