"""DevStack's services and variables: which of them are roles of ours, which are gone, and why."""

from __future__ import annotations

from coordinator.nova.roles import ROLES

#: What DevStack turns on by itself, of what has a role here; others come and go with its versions.
SERVICE_ROLES = {
    "mysql": "database",
    "rabbit": "messaging",
    "key": "keystone",
    "g-api": "glance",
    "placement-api": "placement",
    "n-api": "nova-api",
    "n-cond": "nova-conductor",
    "n-sch": "nova-scheduler",
    "n-cpu": "compute",
}
DEFAULT_SERVICES = tuple(SERVICE_ROLES)
#: One word for several, as is_service_enabled has it.
GROUPS = {
    "nova": ("n-api", "n-cond", "n-sch", "n-cpu"),
    "glance": ("g-api",),
    "placement": ("placement-api",),
    "keystone": ("key",),
}
NO_NOVA_NETWORK = "nova-network is no part of nova any more"
#: Part of another service here, so that nothing is lost without it.
INCLUDED = frozenset({"g-reg", "n-api-meta", "placement-client", "n-super-cond", "n-cell", "n-cell-region"})
#: Services that nothing is deployed for.
GONE = {
    "n-net": NO_NOVA_NETWORK,
    "n-vol": "nova has no volumes of its own any more",
    "n-crt": "nova has no certificate service any more",
    "n-obj": "nova has no object store any more",
    "n-xvnc": "there is no console proxy: the fake driver has no consoles",
    "n-novnc": "there is no console proxy: the fake driver has no consoles",
    "n-spice": "there is no console proxy: the fake driver has no consoles",
    "n-cauth": "there is no console proxy: the fake driver has no consoles",
    "tempest": "tests are Rally's and Tempest's own",
    "dstat": "caas status shows what runs",
    "etcd3": "nothing here needs it",
}
#: By prefix: c-api, c-sch, … and the like.
OTHER_PROJECTS = {
    "c-": "cinder",
    "cinder": "cinder",
    "h-": "heat",
    "heat": "heat",
    "q-": "neutron",
    "neutron": "neutron",
    "s-": "swift",
    "swift": "swift",
    "horizon": "horizon",
    "ceilometer": "ceilometer",
    "tr": "trove",
    "ir-": "ironic",
    "sahara": "sahara",
}
#: Services that stand in the place of one of ours.
REFUSED = {
    "postgresql": "the database is MariaDB",
    "qpid": "messages go by RabbitMQ",
    "zeromq": "messages go by RabbitMQ",
}

_LOGS = "logs are in each container's journal: caas logs, caas exec NAME CONTAINER -- journalctl"
_PACKAGES = "services come from packages"
_SECRETS = "each cluster gets secrets of its own: caas openrc NAME has the admin's"
_ADDRESSES = "addresses and links are those of the containers"
_NETWORK = NO_NOVA_NETWORK
#: Variables of local.conf that have no effect, and why.
IDLE_VARIABLES = {
    "API_RATE_LIMIT": "nova limits no rates any more",
    "MULTI_HOST": _NETWORK,
    "NETWORK_MANAGER": _NETWORK,
    "FIXED_RANGE": _NETWORK,
    "FIXED_NETWORK_SIZE": _NETWORK,
    "FLOATING_RANGE": _NETWORK,
    "NETWORK_GATEWAY": _NETWORK,
    "FLAT_INTERFACE": _NETWORK,
    "FLAT_NETWORK_BRIDGE": _NETWORK,
    "VLAN_INTERFACE": _NETWORK,
    "PUBLIC_INTERFACE": _NETWORK,
    "PUBLIC_BRIDGE": _NETWORK,
    "HOST_IP": _ADDRESSES,
    "HOST_IP_IFACE": _ADDRESSES,
    "HOST_NAME": _ADDRESSES,
    "SCREEN_LOGDIR": _LOGS,
    "SCREEN_NAME": _LOGS,
    "USE_SCREEN": _LOGS,
    "LOGFILE": _LOGS,
    "LOGDIR": _LOGS,
    "LOGDAYS": _LOGS,
    "LOG_COLOR": _LOGS,
    "VERBOSE": _LOGS,
    "SYSLOG": _LOGS,
    "SYSLOG_HOST": _LOGS,
    "SYSLOG_PORT": _LOGS,
    "RECLONE": _PACKAGES,
    "OFFLINE": _PACKAGES,
    "DEST": _PACKAGES,
    "DATA_DIR": _PACKAGES,
    "GIT_BASE": _PACKAGES,
    "PIP_UPGRADE": _PACKAGES,
    "ERROR_ON_CLONE": _PACKAGES,
    "DATABASE_PASSWORD": _SECRETS,
    "MYSQL_PASSWORD": _SECRETS,
    "DATABASE_USER": _SECRETS,
    "MYSQL_USER": _SECRETS,
    "RABBIT_PASSWORD": _SECRETS,
    "RABBIT_USERID": _SECRETS,
    "SERVICE_TOKEN": _SECRETS,
    "SERVICE_PASSWORD": _SECRETS,
    "ADMIN_PASSWORD": _SECRETS,
    "LIBVIRT_TYPE": "the compute driver is the fake one",
    "NUMBER_FAKE_NOVA_COMPUTE": "each container is one compute: containers_per_host says how many",
    "DATABASE_DRIVER": "the variable is DATABASE_TYPE, and mysql is all there is",
    "FORCE": "there is no check of the distribution to be passed over",
}
#: By their ends: NOVA_REPO, GLANCE_BRANCH, …
IDLE_ENDINGS = {"_REPO": _PACKAGES, "_BRANCH": _PACKAGES, "_DIR": _PACKAGES}
#: Variables that say where the controller's services are; for the second kind with the port they must have.
POINTERS = {
    "MYSQL_HOST": None,
    "DATABASE_HOST": None,
    "RABBIT_HOST": None,
    "SERVICE_HOST": None,
    "KEYSTONE_AUTH_HOST": None,
    "KEYSTONE_SERVICE_HOST": None,
    "GLANCE_HOSTPORT": 9292,
}
KNOWN_SERVICES = (*SERVICE_ROLES, *GROUPS, *INCLUDED, *GONE, *REFUSED)


def why_not_deployed(service: str) -> str:
    """Why nothing is deployed for *service*, "" where it is known to be something else."""
    if service in GONE:
        return GONE[service]
    for prefix, project in OTHER_PROJECTS.items():
        if service.startswith(prefix):
            return f"{project} is not deployed: caas deploys keystone, placement, glance and nova"
    return ""


def roles_of(services: set[str]) -> tuple[str, ...]:
    """The roles that *services* come to, in the order of ROLES."""
    held = {SERVICE_ROLES[service] for service in services if service in SERVICE_ROLES}
    return tuple(role for role in ROLES if role in held)


def service_of(role: str) -> str:
    """DevStack's word for *role*."""
    return next(service for service, held in SERVICE_ROLES.items() if held == role)
