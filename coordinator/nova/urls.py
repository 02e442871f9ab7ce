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
#: Keystone's types of these services, and what follows HOST:PORT in their endpoints.
TYPES: Mapping[str, str] = {
    Role.KEYSTONE: "identity",
    Role.GLANCE: "image",
    Role.PLACEMENT: "placement",
    Role.NOVA_API: "compute",
    NEUTRON: "network",
}
_PATHS: Mapping[str, str] = {Role.KEYSTONE: "/v3", Role.NOVA_API: "/v2.1"}
#: There is no admin interface any more since keystone's API v3; nothing here asks for one.
PUBLIC, INTERNAL = INTERFACES = ("public", "internal")


def holding_role(service: str) -> Role:
    """The role whose holder runs *service*: a role's name, or NEUTRON."""
    return Role.NOVA_API if service == NEUTRON else Role(service)


def place(site: Site, service: str) -> str:
    """`ADDRESS:PORT` of *service*: a role's name, or NEUTRON."""
    return f"{site.address(holding_role(service))}:{PORTS[service]}"


def endpoint_url(site: Site, service: str, interface: str) -> str:
    """Where *service*, one of PUBLIC_APIS, is for those who ask for *interface*, one of INTERFACES."""
    inside = place(site, service)
    where = site.publics.get(service, inside) if interface == PUBLIC else inside
    return f"http://{where}{_PATHS.get(service, '')}"


def keystone_url(site: Site, interface: str = INTERNAL) -> str:
    return endpoint_url(site, Role.KEYSTONE, interface)


def database_url(site: Site, user: str, password: str, database: str) -> str:
    """How a service reaches its schema. The password is in it."""
    return f"mysql+pymysql://{user}:{password}@{place(site, Role.DATABASE)}/{database}?charset=utf8"


def transport_url(site: Site, secrets: Secrets) -> str:
    """How a service reaches the message broker. The password is in it."""
    return f"rabbit://caas:{secrets.rabbit_password}@{place(site, Role.MESSAGING)}/"
