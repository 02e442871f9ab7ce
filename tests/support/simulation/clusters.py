"""Random cluster files: up to six hosts, VLANs and routed networks, and what people change in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

HOSTS_MAX, CONTAINERS_MAX = 6, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One container. `number` is the last part of its address where the file says one, else 0."""

    host: str
    network: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A cluster file, before it is text. A network's VID is 0 where it is routed."""

    name: str
    index: int
    hosts: tuple[str, ...]
    vids: dict[str, int]
    containers: dict[str, Spec]
    has_natbox: bool
    #: Every container that the cluster may ever have: none is ever moved or renumbered, which would be refused.
    pool: dict[str, Spec]
    ssh: frozenset[str] = field(default_factory=frozenset)

    def subnet(self, network: str) -> str:
        """The network's, or its first block's; no two clusters have the same."""
        place = 16 * list(self.vids).index(network)
        return f"10.{100 + self.index}.{place}.0/24"

    def text(self) -> str:
        """As YAML."""
        lines = [f"name: {self.name}", "hosts:"]
        lines += [f"  {host}: {{address: {address_of(host)}, trunk: eth1}}" for host in self.hosts]
        if self.has_natbox:
            lines.append("natbox: {address: 10.9.0.250, trunk: eth1, uplink: eth2}")
        lines.append("networks:")
        for network, vid in self.vids.items():
            subnet = self.subnet(network)
            gateway = f", gateway: {subnet.removesuffix('0/24')}1" if vid and self.has_natbox else ""
            rest = f"vlan: {vid}, subnet: {subnet}{gateway}" if vid else f"subnet: {subnet}, overlay: ipip"
            lines.append(f"  {network}: {{{rest}}}")
        lines.append("containers:")
        for name, spec in self.containers.items():
            address = f", address: {self.address(spec)}" if spec.number else ""
            roles = "controller, compute" if name == "c0" else "compute"
            ssh = ", ssh: true" if name in self.ssh else ""
            lines.append(f"  {name}: {{host: {spec.host}, network: {spec.network}{address}, roles: [{roles}]{ssh}}}")
        return "\n".join([*lines, ""])

    def address(self, spec: Spec) -> str:
        """The one that the file says for *spec*."""
        first, second, third, _ = self.subnet(spec.network).split(".")
        block = self.hosts.index(spec.host) if not self.vids[spec.network] else 0
        return f"{first}.{second}.{int(third) + block}.{spec.number}"


def address_of(host: str) -> str:
    """Its management address: host3's is 10.9.0.3, host300's 10.9.1.44."""
    number = int(host.removeprefix("host"))
    return f"10.9.{number >> 8}.{number & 255}"


def make_draft(random: Random, name: str, index: int, hosts: list[str], *, has_natbox: bool) -> Draft:
    """A cluster's first file."""
    used = sorted(random.sample(hosts, random.randint(1, len(hosts))))
    networks = {f"n{number}": 0 for number in range(random.randint(1, 2))}
    for network in networks:
        networks[network] = random.choice((0, 1)) * (100 + 100 * index + len(network) + int(network[1:]))
    pool = {
        f"c{number}": Spec(
            host=random.choice(used), network=random.choice(list(networks)), number=random.choice((0, 50 + number))
        )
        for number in range(CONTAINERS_MAX)
    }
    first = dict(list(pool.items())[: random.randint(1, 4)])
    return Draft(
        name=name, index=index, hosts=tuple(used), vids=networks, containers=first, has_natbox=has_natbox, pool=pool
    )


def change(random: Random, draft: Draft, *, may_leave: bool) -> Draft:
    """*draft* as somebody changed it: one container more or less, SSH or not, a host less.

    Hosts leave a file only with *may_leave*, and only where no block of addresses depends on them.
    """
    what = random.choice(("add", "add", "remove", "ssh", "leave"))
    rest = [name for name in draft.containers if name != "c0"]
    free = [name for name in draft.pool if name not in draft.containers]
    if what == "add" and free:
        name = random.choice(free)
        return replace(draft, containers={**draft.containers, name: draft.pool[name]})
    if what == "remove" and rest:
        gone = random.choice(rest)
        return replace(draft, containers={name: one for name, one in draft.containers.items() if name != gone})
    if what == "ssh":
        return replace(draft, ssh=draft.ssh ^ {random.choice(list(draft.containers))})
    if what == "leave" and may_leave and all(draft.vids.values()):
        homes = {one.host for one in draft.pool.values()}
        if idle := [host for host in draft.hosts if host not in homes]:
            return replace(draft, hosts=tuple(host for host in draft.hosts if host != idle[0]))
    return draft


def collide(random: Random, draft: Draft, other: Draft) -> Draft:
    """*draft* with a container on a VLAN of *other*: refused where both are on one host, else soon removed again."""
    theirs = [vid for vid in other.vids.values() if vid]
    if not theirs:
        return draft
    spec = Spec(host=random.choice(draft.hosts), network="x", number=0)
    vids = {**draft.vids, "x": random.choice(theirs)}
    return replace(draft, vids=vids, containers={**draft.containers, "cx": spec})
