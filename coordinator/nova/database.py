"""MariaDB: schemas come migrated and empty with the image; users, grants and nova's two cells are made here."""

from __future__ import annotations

import hashlib

from coordinator.nova.goals import File, Goal, Rows, Unit
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import Command, ServiceStep, World
from coordinator.nova.urls import place

CELL0_UUID = "00000000-0000-0000-0000-000000000000"  # nova.objects.cell_mapping.CellMapping.CELL0_UUID
#: Filled from each service's own configuration (nova: "template URLs in cell mappings"): no password in the rows.
CELL0_CONNECTION = "{scheme}://{username}:{password}@{hostname}:{port}/nova_cell0?{query}"
CELL_CONNECTION = "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}"
CELL_TRANSPORT = "{scheme}://{username}:{password}@{hostname}:{port}/{path}"
USERS_QUERY = "SELECT User, Host, JSON_VALUE(Priv, '$.authentication_string') FROM mysql.global_priv"
GRANTS_QUERY = "SELECT User, Db, Host FROM mysql.db"
CELLS_QUERY = "SELECT uuid, name, transport_url, database_connection FROM nova_api.cell_mappings"


def step_id(world: World) -> str:
    return f"database/server:{world.site.holder(Role.DATABASE).hostname}"


def make_database_steps(world: World) -> tuple[ServiceStep, ...]:
    """One step: the server, its users, nova's cells."""
    secrets = world.secrets
    users = (
        ("keystone", secrets.database_keystone, ("keystone",)),
        ("glance", secrets.database_glance, ("glance",)),
        ("placement", secrets.database_placement, ("placement",)),
        ("neutron", secrets.database_neutron, ("neutron",)),
        ("nova", secrets.database_nova, ("nova_api", "nova", "nova_cell0")),
    )
    cells = (
        ("cell0", CELL0_UUID, "none:///", CELL0_CONNECTION),
        ("cell1", secrets.cell_uuid, CELL_TRANSPORT, CELL_CONNECTION),
    )
    config = File(
        path="/etc/mysql/mariadb.conf.d/70-caas.cnf",
        content=render("mariadb.cnf.j2", address="0.0.0.0"),
        mode="0644",
    )
    rows = (
        Rows(query=USERS_QUERY, wanted=frozenset((user, "%", hash_password(password)) for user, password, _ in users)),
        Rows(query=GRANTS_QUERY, wanted=frozenset((user, name, "%") for user, _, names in users for name in names)),
        Rows(
            query=CELLS_QUERY,
            wanted=frozenset((uuid, name, transport, connection) for name, uuid, transport, connection in cells),
        ),
    )
    goal = Goal(
        look=world.look(Role.DATABASE),
        units=(Unit(name="mariadb", files=(config,)),),
        ports=(place(world.site, Role.DATABASE),),
        rows=rows,
    )
    sql = Command(argv=("mariadb", "--batch"), stdin=render("database.sql.j2", users=users, cells=cells))
    return (
        ServiceStep(
            id=step_id(world),
            title=f"database: MariaDB, users and cells on {world.site.holder(Role.DATABASE).hostname}",
            needs=frozenset(),
            goal=goal,
            after=(sql,),
            secrets=secrets,
        ),
    )


def hash_password(password: str) -> str:
    """What MariaDB keeps of a password (mysql_native_password): `*` and twice SHA-1."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
