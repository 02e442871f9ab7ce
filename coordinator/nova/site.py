"""What nova's steps must know of a cluster: who holds which role, at which address. Frozen, validated, no I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.nova import roles
from coordinator.nova.roles import CONTROLLER, Role
from proto.errors import CaasError, Code, invalid
from proto.names import check_cluster_name, check_hostname

CONTROLLER_ROLES = frozenset(Role) - {Role.COMPUTE}
#: virt_driver of a cluster file -> compute_driver of nova 26 (nova/virt/fake.py).
VIRT_DRIVERS: Mapping[str, str] = {
    "fake": "fake.FakeDriver",
    "fake-small": "fake.SmallFakeDriver",
    "fake-medium": "fake.MediumFakeDriver",
}
MAX_API_WORKERS = 64


def expand_roles(names: Iterable[str]) -> frozenset[Role]:
    """The roles that *names* stand for (`controller` is a group). INVALID names the first that is unknown."""
    try:
        return frozenset(Role(name) for name in roles.expand_roles(names))
    except KeyError as exc:
        raise invalid(f"role {exc.args[0]!r}: known are {', '.join(roles.ROLE_WORDS)}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A container of the cluster as nova sees it."""

    hostname: str
    address: ipaddress.IPv4Address
    roles: frozenset[Role]

    def __post_init__(self) -> None:
        check_hostname(self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices with a default. `api_workers`: processes of each API, 1..64; one starts quickest."""

    api_workers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.api_workers <= MAX_API_WORKERS:
            raise invalid(f"nova: api_workers {self.api_workers}: 1 to {MAX_API_WORKERS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster's nova. One holder for each role but compute; INVALID names the role that has none or two.

    `publics` is where services are seen from outside, ADDRESS:PORT by service (urls.PUBLIC_APIS); none: nowhere.
    """

    cluster: str
    members: tuple[Member, ...]
    region: str = "RegionOne"
    virt_driver: str = "fake"
    options: Options = field(default_factory=Options)
    publics: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_cluster_name(self.cluster)
        if self.virt_driver not in VIRT_DRIVERS:
            raise invalid(f"nova: virt_driver {self.virt_driver!r}: known are {', '.join(VIRT_DRIVERS)}")
        if not self.region.isascii() or not self.region.replace("-", "").replace("_", "").isalnum():
            raise invalid(f"nova: region {self.region!r}: letters, digits, '-' and '_'")
        names = [member.hostname for member in self.members]
        if len(set(names)) != len(names):
            raise invalid(f"nova: a host name is given twice: {', '.join(sorted(names))}")
        self._check_holders()

    def _check_holders(self) -> None:
        missing = [role for role in Role if role is not Role.COMPUTE and not self._holders(role)]
        if missing:
            raise invalid(
                f"nova: no container has the role{'s' if missing[1:] else ''} {', '.join(missing)}",
                hint=f"give one container the role {CONTROLLER}, or spread these over several",
            )
        for role in CONTROLLER_ROLES:
            holders = self._holders(role)
            if len(holders) > 1:
                raise invalid(
                    f"nova: role {role} is given to {', '.join(m.hostname for m in holders)}: one is possible"
                )

    def _holders(self, role: Role) -> tuple[Member, ...]:
        return tuple(member for member in self.members if role in member.roles)

    def holder(self, role: Role) -> Member:
        """The one container that has *role* (not compute)."""
        holders = self._holders(role)
        if len(holders) != 1:
            raise invalid(f"role {role} has {len(holders)} holders")
        return holders[0]

    def address(self, role: Role) -> str:
        """Where the service of *role* listens."""
        return str(self.holder(role).address)

    @property
    def computes(self) -> tuple[Member, ...]:
        return self._holders(Role.COMPUTE)

    def member(self, hostname: str) -> Member:
        """The member called *hostname*, else NOT_FOUND."""
        for member in self.members:
            if member.hostname == hostname:
                return member
        raise CaasError(Code.NOT_FOUND, f"cluster {self.cluster} has no container {hostname}")


def make_site(
    *,
    cluster: str,
    containers: Iterable[Mapping[str, Any]],
    region: str = "RegionOne",
    virt_driver: str = "fake",
    options: Mapping[str, Any] | None = None,
    publics: Mapping[str, str] | None = None,
) -> Site:
    """A Site from plain values; each container has `hostname`, `address` and `roles` (names, groups allowed)."""
    members = []
    for entry in containers:
        try:
            address = ipaddress.IPv4Address(str(entry["address"]))
        except ValueError as exc:
            raise invalid(f"container {entry['hostname']}: address {entry['address']!r} is not IPv4") from exc
        members.append(
            Member(hostname=str(entry["hostname"]), address=address, roles=expand_roles(entry["roles"])),
        )
    unknown = sorted(set(options or {}) - {"api_workers"})
    if unknown:
        raise invalid(f"nova: unknown option {', '.join(unknown)}; known: api_workers")
    return Site(
        cluster=cluster,
        members=tuple(members),
        region=region,
        virt_driver=virt_driver,
        options=Options(**(options or {})),
        publics=dict(publics or {}),
    )
