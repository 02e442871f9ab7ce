"""A container as it should be, or as it is."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar

from proto.errors import invalid
from proto.marks import Mark
from proto.model.network import check_mtu
from proto.names import check_hostname, check_ifname, make_lxc_name

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A line of /etc/hosts."""

    address: ipaddress.IPv4Address
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A container's eth0: a veth pair whose other end, *port*, is a port of *bridge*. The address is static."""

    bridge: str
    port: str
    mac: str
    mtu: int
    address: ipaddress.IPv4Interface
    gateway: ipaddress.IPv4Address | None

    def __post_init__(self) -> None:
        check_ifname(self.bridge)
        check_ifname(self.port)
        check_mtu(self.mtu)
        if not _MAC.fullmatch(self.mac) or int(self.mac[:2], 16) & 1:
            raise invalid(f"MAC {self.mac!r}: six lower-case pairs of hex digits, not multicast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of a cluster on one host.

    `image` names a declaration; which build of it is used is decided when the container is made, and never
    again. `running` is what is wanted, or what is seen. `clone_of` is "" or the container whose root file
    system this one starts from. `merge`: the kernel may keep equal pages of it and of others once (KSM), for which
    its addresses are not randomised (docs/density.md). `ssh`: root is let in with the keys that its host lets in; seen
    where its authorized_keys says what the host's does, and seen as None where it says something else.
    """

    kind: ClassVar[str] = "container"
    cluster: str
    hostname: str
    image: str
    nic: Nic
    hosts: tuple[HostEntry, ...]
    roles: tuple[str, ...]
    clone_of: str = ""
    running: bool = True
    merge: bool = False
    ssh: bool | None = False

    def __post_init__(self) -> None:
        check_hostname(self.hostname)
        make_lxc_name(self.cluster, self.hostname)
        if not _IMAGE.fullmatch(self.image):
            raise invalid(f"container {self.hostname}: image {self.image!r}: a-z, 0-9 and '-', at most 63")

    @property
    def name(self) -> str:
        """The name that LXC knows it by."""
        return make_lxc_name(self.cluster, self.hostname)

    @property
    def mark(self) -> Mark:
        return Mark(self.cluster, self.hostname)
