"""Links, addresses, routes, rules and translation rules of one host."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from proto.errors import invalid
from proto.marks import Mark
from proto.names import check_ifname

KIND_BRIDGE = "bridge"
KIND_VLAN = "vlan"
KIND_IPIP = "ipip"
KIND_VXLAN = "vxlan"
VID_MIN, VID_MAX = 1, 4094
MTU_MIN, MTU_MAX = 576, 65535
TABLE_MAIN = 254
PORT_MAX = 65535
#: What an outer IPv4 header without options takes of each packet (RFC 2003).
IPIP_OVERHEAD = 20
#: The same and UDP's, VXLAN's and Ethernet's header (RFC 7348, section 5).
VXLAN_OVERHEAD = 50


def check_vid(vid: int) -> int:
    """Return *vid* if it may name a VLAN (IEEE 802.1Q: 0 and 4095 are reserved), else raise INVALID."""
    if not VID_MIN <= vid <= VID_MAX:
        raise invalid(f"VID {vid}: it must be within {VID_MIN}..{VID_MAX}")
    return vid


def check_mtu(mtu: int) -> int:
    """Return *mtu* if IPv4 can be carried over it (RFC 791: 576 bytes must be accepted), else raise INVALID."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise invalid(f"MTU {mtu}: it must be within {MTU_MIN}..{MTU_MAX}")
    return mtu


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge without spanning tree. Its MTU is set, so that no port changes it (facts.md)."""

    kind: ClassVar[str] = KIND_BRIDGE
    name: str
    mtu: int
    mark: Mark

    def __post_init__(self) -> None:
        check_ifname(self.name)
        check_mtu(self.mtu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlan:
    """An 802.1Q subinterface of *parent*, a port of the bridge *master* ("" where it is none)."""

    kind: ClassVar[str] = KIND_VLAN
    name: str
    parent: str
    vid: int
    mtu: int
    master: str
    mark: Mark

    def __post_init__(self) -> None:
        check_ifname(self.name)
        check_ifname(self.parent)
        check_vid(self.vid)
        check_mtu(self.mtu)
        if self.master:
            check_ifname(self.master)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipip:
    """One end of a tunnel: IPv4 in IPv4 (RFC 2003) between the underlay addresses *local* and *remote*.

    It is up, without an address, with loose reverse-path filtering. Only inner sources that a route of ours sends
    back by it are taken. *remote* None: the far end of each packet is what its route says (Route.encap), and packets
    are taken from those ends.
    """

    kind: ClassVar[str] = KIND_IPIP
    name: str
    local: ipaddress.IPv4Address
    remote: ipaddress.IPv4Address | None
    mtu: int
    mark: Mark

    def __post_init__(self) -> None:
        check_ifname(self.name)
        check_mtu(self.mtu)
        if self.local == self.remote:
            raise invalid(f"tunnel {self.name}: both ends are {self.local}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vxlan:
    """This host's end, at the underlay address *local*, of every way in VXLAN (RFC 7348): the kernel's own device.

    It is up, without an address, with loose reverse-path filtering. Where a packet goes its route says (Route.encap);
    only inner sources that a route of ours sends back by it are taken, from the far end of that route.
    """

    kind: ClassVar[str] = KIND_VXLAN
    name: str
    local: ipaddress.IPv4Address
    mtu: int
    mark: Mark

    def __post_init__(self) -> None:
        check_ifname(self.name)
        check_mtu(self.mtu)

    @property
    def remote(self) -> None:
        """As that of an Ipip which leads to any far end."""
        return None


Link = Bridge | Vlan | Ipip | Vxlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address with its prefix length on a link."""

    kind: ClassVar[str] = "address"
    link: str
    address: ipaddress.IPv4Interface

    @property
    def name(self) -> str:
        return f"{self.address} on {self.link}"


@functools.lru_cache(maxsize=1 << 16)
def _show(address: int, length: int) -> str:
    """Each of a thousand hosts has a route to each of the others: their names are asked for a million times.

    Numbers, since the hash of a network takes longer than all the rest.
    """
    return f"{ipaddress.IPv4Address(address)}/{length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An IPv4 route in *table*; `via` and `src` may be None. Ours by its protocol number (proto.marks).

    `encap` is where the outer header goes, for a `dev` that is a tunnel without a remote; else None. `dev` "" is the
    link of the host's own that `via` is on, whatever it is called.
    """

    kind: ClassVar[str] = "route"
    dst: ipaddress.IPv4Network
    dev: str
    via: ipaddress.IPv4Address | None = None
    src: ipaddress.IPv4Address | None = None
    table: int = TABLE_MAIN
    encap: ipaddress.IPv4Address | None = None

    def __post_init__(self) -> None:
        if not self.dev and self.via is None:
            raise invalid(f"route to {self.dst}: it needs a link, or a next hop")

    @property
    def name(self) -> str:
        way = f"dev {self.dev}" if self.dev else "direct"
        return f"{_show(int(self.dst.network_address), self.dst.prefixlen)} {way} table {self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An IPv4 policy rule: what comes `src` -> `dst` is looked up in *table*. Ours by its protocol number."""

    kind: ClassVar[str] = "rule"
    priority: int
    src: ipaddress.IPv4Network | None
    dst: ipaddress.IPv4Network | None
    table: int

    @property
    def name(self) -> str:
        return f"{self.priority}: from {self.src or 'all'} to {self.dst or 'all'} lookup {self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Masquerade:
    """Sources in *source* get the address of the link they leave by, unless they go to one of *exempt*."""

    kind: ClassVar[str] = "masquerade"
    source: ipaddress.IPv4Network
    exempt: tuple[ipaddress.IPv4Network, ...]
    mark: Mark

    @property
    def name(self) -> str:
        return str(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """TCP to *address*:*port* of the host goes to *to*:*to_port* (a container's SSH)."""

    kind: ClassVar[str] = "forward"
    address: ipaddress.IPv4Address
    port: int
    to: ipaddress.IPv4Address
    to_port: int
    mark: Mark

    def __post_init__(self) -> None:
        for port in (self.port, self.to_port):
            if not 1 <= port <= PORT_MAX:
                raise invalid(f"forward {self.name}: port {port}: it must be within 1..{PORT_MAX}")

    @property
    def name(self) -> str:
        return f"{self.address}:{self.port}"
