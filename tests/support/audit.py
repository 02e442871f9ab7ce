"""What makes a cluster itself: secrets, keys, cookies, endpoints and ids, collected from its containers.

Two clusters made from one image must share none of it. Shares no code with coordinator.nova: it looks for what
OpenStack, MariaDB, RabbitMQ and Debian are known to keep, wherever that came from.

    one = collect(run, ["ubuntu011", "ubuntu012"])      run(container, argv, stdin) -> stdout
    assert not shared(one, other)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

Run = Callable[[str, list[str], bytes], bytes]

#: Rows by kind: SQL for the unix socket of the database. Each gives one column. What OpenStack fixes for everybody
#: (the default domain, the root of domains, cell0, its own built-in names) is left out by the query.
ROWS: Mapping[str, str] = {
    "mariadb server": "SELECT @@server_uid",
    "mariadb password hashes": "SELECT JSON_VALUE(Priv, '$.authentication_string') FROM mysql.global_priv"
    " WHERE JSON_VALUE(Priv, '$.authentication_string') LIKE '*%'",
    "keystone users": "SELECT id FROM keystone.user",
    "keystone password hashes": "SELECT password_hash FROM keystone.password",
    "keystone projects": "SELECT id FROM keystone.project WHERE id NOT IN ('default', '<<keystone.domain.root>>')",
    "keystone roles": "SELECT id FROM keystone.role",
    "keystone services": "SELECT id FROM keystone.service",
    "keystone endpoints": "SELECT id FROM keystone.endpoint",
    "glance images": "SELECT id FROM glance.images",
    "nova cells": "SELECT uuid FROM nova_api.cell_mappings WHERE uuid NOT LIKE '00000000-%'",
    "nova services": "SELECT uuid FROM nova.services",
    "nova compute nodes": "SELECT uuid FROM nova.compute_nodes",
    "nova flavors": "SELECT flavorid FROM nova_api.flavors",
    "nova servers": "SELECT uuid FROM nova.instances",
    "placement providers": "SELECT uuid FROM placement.resource_providers",
}
#: Whole files by kind (glob).
FILES: Mapping[str, str] = {
    "machine id": "/etc/machine-id",
    "erlang cookie": "/var/lib/rabbitmq/.erlang.cookie",
    "keystone fernet keys": "/etc/keystone/fernet-keys/*",
    "keystone credential keys": "/etc/keystone/credential-keys/*",
    "ssh host keys": "/etc/ssh/ssh_host_*_key",
    "nova compute id": "/var/lib/nova/compute_id",
    "systemd random seed": "/var/lib/systemd/random-seed",
    "systemd credential secret": "/var/lib/systemd/credential.secret",
    "private keys": "/etc/ssl/private/*",
}
#: Parts of files by kind: glob, and a regular expression whose group is the value.
PARTS: Mapping[str, tuple[str, str]] = {
    "passwords in URLs": ("/etc/*/*.conf", r"(?m)^(?:connection|transport_url)\s*=\s*\S+?://[^:@\s]+:([^@\s]+)@"),
    "passwords of services": ("/etc/*/*.conf", r"(?m)^password\s*=\s*(\S+)"),
    "rabbitmq password": ("/etc/rabbitmq/*", r'default_pass,\s*<<"([^"]+)">>'),
    "administrator's password": ("/root/*openrc*", r"OS_PASSWORD='?([^'\s]+)"),
}
#: A cluster has none of these with this release and these packages; if one appears it must differ.
OPTIONAL = frozenset(
    {"ssh host keys", "nova compute id", "systemd random seed", "systemd credential secret", "private keys"}
)

_PROGRAM = """
import glob, json, os, re, subprocess, sys
wanted = json.loads(sys.argv[1])
found = {}
for kind, pattern in wanted["files"].items():
    for path in glob.glob(pattern):
        if os.path.isfile(path):
            text = open(path, errors="surrogateescape").read().strip()
            if text:
                found.setdefault(kind, []).append(text)
for kind, (pattern, expression) in wanted["parts"].items():
    for path in glob.glob(pattern):
        if os.path.isfile(path):
            found.setdefault(kind, []).extend(re.findall(expression, open(path, errors="surrogateescape").read()))
if os.path.exists("/run/mysqld/mysqld.sock"):
    for kind, query in wanted["rows"].items():
        argv = ["mariadb", "--batch", "--skip-column-names", "-e", query]
        rows = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        found.setdefault(kind, []).extend(rows.split())
json.dump(found, sys.stdout)
"""


def collect(run: Run, containers: Iterable[str]) -> dict[str, frozenset[str]]:
    """Every value by kind, over all *containers* of one cluster.

    AssertionError where a kind that every cluster has is missing: a comparison with nothing proves nothing.
    """
    wanted = json.dumps({"files": FILES, "parts": PARTS, "rows": ROWS})
    found: dict[str, set[str]] = {}
    for container in containers:
        output = run(container, ["python3", "-", wanted], _PROGRAM.encode())
        for kind, values in json.loads(output).items():
            found.setdefault(kind, set()).update(values)
    missing = {kind for kind in (*FILES, *PARTS, *ROWS) if not found.get(kind)} - OPTIONAL
    assert not missing, f"not found in any container: {', '.join(sorted(missing))}"
    return {kind: frozenset(values) for kind, values in found.items()}


def shared(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """What both clusters have, by kind. A value that is of different kinds in the two counts as well."""
    everything = frozenset().union(*other.values())
    return {kind: values & everything for kind, values in one.items() if values & everything}
