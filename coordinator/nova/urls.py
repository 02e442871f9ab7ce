"""Where services listen and how they are reached."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.nova.roles import Role
from coordinator.nova.secrets import Secrets
from coordinator.nova.site import Site

#: The network API. It is no role of its own: it runs beside nova's API, which asks it for the ports of every server
#: it shows, deletes or lists (nova 26 fails without), also of those that have none.
NEUTRON = "neutron"
#: The ports that OpenStack documents for each API.
PORTS: Mapping[str, int] = {
    Role.KEYSTONE: 5000,
    Role.GLANCE: 9292,
    Role.PLACEMENT: 8778,
    Role.NOVA_API: 8774,
    NEUTRON: 9696,
    Role.DATABASE: 3306,
    Role.MESSAGING: 5672,
}
#: What `publish: api` publishes; the order is that of the ports from `base_port` on, a promise to users.
PUBLIC_APIS: tuple[str, ...] = (Role.KEYSTONE, Role.GLANCE, Role.PLACEMENT, Role.NOVA_API, NEUTRON)


def holding_role(service: str) -> Role:
    """The role whose holder runs *service*: a role's name, or NEUTRON."""
    return Role.NOVA_API if service == NEUTRON else Role(service)


def place(site: Site, service: str) -> str:
    """`ADDRESS:PORT` of *service*: a role's name, or NEUTRON."""
    return f"{site.address(holding_role(service))}:{PORTS[service]}"


def keystone_url(site: Site) -> str:
    return f"http://{place(site, Role.KEYSTONE)}/v3"


def database_url(site: Site, user: str, password: str, database: str) -> str:
    """How a service reaches its schema. The password is in it."""
    return f"mysql+pymysql://{user}:{password}@{place(site, Role.DATABASE)}/{database}?charset=utf8"


def transport_url(site: Site, secrets: Secrets) -> str:
    """How a service reaches the message broker. The password is in it."""
    return f"rabbit://caas:{secrets.rabbit_password}@{place(site, Role.MESSAGING)}/"
