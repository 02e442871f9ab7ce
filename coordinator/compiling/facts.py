"""What compile is told besides the file: what the hosts said of themselves, and what runs already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from proto.errors import CaasError, Code
from proto.model import Container, Datapath

#: RFC 894: what an Ethernet carries where nobody said otherwise.
MTU_ASSUMED = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host as its agent described it: MTU of each link that is not ours, routes that are not ours, datapath.

    `underlay_mtu` is that of the link which has the host's address, None where it was not told. `taken` are names of
    links, `taken_subnets` and `taken_ports` what other clusters, or the host itself, have here.
    `keyless` is the host's file of SSH keys where nobody is in it. `uplink` are NATBox's addresses on its uplink, the
    one that it translates to first.
    """

    links: Mapping[str, int]
    routes: tuple[IPv4Network, ...] = ()
    datapath: Datapath = field(default_factory=Datapath)
    underlay_mtu: int | None = None
    taken: frozenset[str] = frozenset()
    taken_subnets: tuple[IPv4Network, ...] = ()
    taken_ports: frozenset[int] = frozenset()
    keyless: str = ""
    uplink: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How packets get from one of two hosts to the other: "direct", "ipip" or "vxlan", and why so."""

    method: str
    why: str


#: Two hosts by name, in the order of the alphabet.
Pair = tuple[str, str]


def pair_of(one: str, other: str) -> Pair:
    """The two as a key of Facts.pairs."""
    return (one, other) if one < other else (other, one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a file's hosts, by name, and of NATBox (None where it was not asked).

    `pairs` has the way between each two hosts that were probed, for `overlay: auto`.
    """

    hosts: Mapping[str, HostFacts]
    natbox: HostFacts | None = None
    pairs: Mapping[Pair, Way] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A container that is there, and its host."""

    host: str
    container: Container


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One cluster's containers that are there, by host name: from the journal, or as the agents see them.

    `ports` are the forwarded ports of those that have one.
    """

    containers: Mapping[str, Placed] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, hosts: Mapping[str, Iterable[Container]], *, ports: Mapping[str, int] | None = None) -> Remembered:
        """What is on each host, with the forwarded *ports*. CONFLICT where one name is on two of them."""
        placed: dict[str, Placed] = {}
        for host, containers in hosts.items():
            for container in containers:
                first = placed.setdefault(container.hostname, Placed(host=host, container=container))
                if first.host != host:
                    raise CaasError(
                        Code.CONFLICT,
                        f"container {container.hostname} of {container.cluster} is on {first.host} and on {host}",
                        hint="remove one of the two: caas down, or lxc-destroy on the host",
                    )
        return cls(containers=placed, ports=ports or {})
