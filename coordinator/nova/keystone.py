"""Keystone: keys, the administrator, the API, then the accounts and endpoints of all other services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coordinator.nova import database
from coordinator.nova.api import make_api_step
from coordinator.nova.client import make_openrc_file
from coordinator.nova.cloud import run_cloud
from coordinator.nova.goals import File, Goal, Rows
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import Command, ServiceStep, World, without_secrets
from coordinator.nova.urls import INTERFACES, INTERNAL, NEUTRON, TYPES, database_url, endpoint_url, keystone_url
from coordinator.steps import Step

PROJECT = "service"
#: What keystone-manage bootstrap makes, and what the accounts of services get.
ADMIN, ADMIN_ROLE, SERVICE_ROLE = "admin", "admin", "service"
CATALOG_SECONDS = 120.0

ROLES_QUERY = (
    "SELECT u.name, p.name, r.name FROM keystone.assignment a JOIN keystone.local_user u ON u.user_id = a.actor_id"
    " JOIN keystone.project p ON p.id = a.target_id JOIN keystone.role r ON r.id = a.role_id"
)
ENDPOINTS_QUERY = (
    "SELECT s.type, e.interface, e.region_id, e.url FROM keystone.endpoint e"
    " JOIN keystone.service s ON s.id = e.service_id"
)


def bootstrap_id(world: World) -> str:
    return f"keystone/bootstrap:{world.site.holder(Role.KEYSTONE).hostname}"


def server_id(world: World) -> str:
    return f"keystone/server:{world.site.holder(Role.KEYSTONE).hostname}"


def catalog_id(world: World) -> str:
    return f"keystone/catalog:{world.site.holder(Role.KEYSTONE).hostname}"


def _make_files(world: World) -> tuple[File, ...]:
    secrets = world.secrets
    config = File(
        path="/etc/keystone/keystone.conf",
        content=render(
            "keystone.conf.j2",
            connection=database_url(world.site, "keystone", secrets.database_keystone, "keystone"),
        ),
        group="keystone",
    )
    # Key 0 is the next one, the highest number the one in use (keystone: "Fernet key rotation").
    keys = (
        ("fernet-keys/0", secrets.fernet_key_next),
        ("fernet-keys/1", secrets.fernet_key),
        ("credential-keys/0", secrets.credential_key_next),
        ("credential-keys/1", secrets.credential_key),
    )
    return (
        config,
        *(
            File(
                path=f"/etc/keystone/{name}",
                content=key,
                owner="keystone",
                group="keystone",
                mode="0600",
                folder_mode="0700",
            )
            for name, key in keys
        ),
    )


def make_keystone_steps(world: World) -> tuple[Step, ...]:
    """Bootstrap and API at the same time, then the catalog."""
    files = _make_files(world)
    openrc = make_openrc_file(world.site, world.secrets)
    server = make_api_step(world, Role.KEYSTONE, files=files, needs=frozenset({database.step_id(world)}))
    return (_make_bootstrap(world, files), server, _make_catalog(world, openrc))


def _make_bootstrap(world: World, files: tuple[File, ...]) -> ServiceStep:
    url = keystone_url(world.site)
    argv = ["keystone-manage", "--config-file", "/etc/keystone/keystone.conf", "bootstrap"]
    argv += ["--bootstrap-username", ADMIN, "--bootstrap-region-id", world.site.region]
    for interface in INTERFACES:
        argv += [f"--bootstrap-{interface}-url", keystone_url(world.site, interface)]
    rows = (
        Rows(query=ROLES_QUERY, wanted=frozenset({(ADMIN, "admin", ADMIN_ROLE)})),
        # The public one is PublicStep's, once there is one.
        Rows(query=ENDPOINTS_QUERY, wanted=frozenset({("identity", INTERNAL, world.site.region, url)})),
    )
    return ServiceStep(
        id=bootstrap_id(world),
        title="keystone: keys and the administrator",
        needs=frozenset({database.step_id(world)}),
        goal=Goal(look=world.look(Role.KEYSTONE), files=files),
        elsewhere=(Goal(look=world.look(Role.DATABASE), rows=rows),),
        before=(
            Command(
                argv=tuple(argv),
                env={"OS_BOOTSTRAP_PASSWORD": world.secrets.admin_password, "HOME": "/var/lib/keystone"},
                user="keystone",
            ),
        ),
        secrets=world.secrets,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogStep:
    """Accounts, services and their internal endpoints, by one process over keystone's API."""

    id: str
    title: str
    needs: frozenset[str]
    world: World
    goal: Goal
    elsewhere: Goal
    job: dict[str, Any] = field(repr=False)

    async def done(self) -> bool:
        async with without_secrets(self.world.secrets, self.id):
            return not await self.goal.lacks() and not await self.elsewhere.lacks()

    async def run(self) -> None:
        shell = self.world.shell(Role.KEYSTONE)
        async with without_secrets(self.world.secrets, self.id):
            try:
                await run_cloud(shell, self.job, files=self.goal.files, seconds=CATALOG_SECONDS)
            finally:
                self.goal.forget()
                self.elsewhere.forget()

    async def undo(self) -> None:
        """Accounts and endpoints stay: they go with the database."""


def _make_catalog(world: World, openrc: File) -> CatalogStep:
    site, secrets = world.site, world.secrets
    passwords = {
        "glance": secrets.user_glance,
        "neutron": secrets.user_neutron,
        "nova": secrets.user_nova,
        "placement": secrets.user_placement,
    }
    # The service role is enough to check the tokens of others; nova also acts in placement and neutron.
    roles = {user: (ADMIN_ROLE, SERVICE_ROLE) if user == "nova" else (SERVICE_ROLE,) for user in passwords}
    services = (
        ("glance", Role.GLANCE, "Images"),
        ("neutron", NEUTRON, "Networks"),
        ("nova", Role.NOVA_API, "Servers"),
        ("placement", Role.PLACEMENT, "Resources"),
    )
    urls = {service: endpoint_url(site, service, INTERNAL) for _, service, _ in services}
    rows = (
        Rows(query=ROLES_QUERY, wanted=frozenset((user, PROJECT, role) for user in roles for role in roles[user])),
        Rows(
            query=ENDPOINTS_QUERY,
            wanted=frozenset((TYPES[service], INTERNAL, site.region, url) for service, url in urls.items()),
        ),
    )
    job = {
        "action": "catalog",
        "project": PROJECT,
        "region": site.region,
        "interface": INTERNAL,
        "users": [{"name": user, "password": password, "roles": roles[user]} for user, password in passwords.items()],
        "services": [
            {"name": name, "type": TYPES[service], "description": about, "url": urls[service]}
            for name, service, about in services
        ],
    }
    return CatalogStep(
        id=catalog_id(world),
        title="keystone: accounts and endpoints of the services",
        needs=frozenset({bootstrap_id(world), server_id(world)}),
        world=world,
        goal=Goal(look=world.look(Role.KEYSTONE), files=(openrc,)),
        elsewhere=Goal(look=world.look(Role.DATABASE), rows=rows),
        job=job,
    )
