"""Names: which ones are valid, and the one function that makes those of links.

A link's name has at most 15 characters (IFNAMSIZ in linux/if.h, less the NUL). A readable name that is too
long is replaced by a hashed one, never cut: two long names must not become one device.
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import AddressValueError, IPv4Address

from proto.errors import invalid

IFNAME_MAX = 15
HOSTNAME_MAX = 63
#: RFC 1035 2.3.4: 255 octets on the wire.
HOST_MAX = 253
_IFNAME = re.compile(r"[^\s/:%\x00-\x1f\x7f]{1,15}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLUSTER = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
CLUSTER_MAX = 32


def check_ifname(name: str) -> str:
    """Return *name* if the kernel takes it for a link (dev_valid_name in net/core/dev.c), else raise INVALID."""
    if name in (".", "..") or not _IFNAME.fullmatch(name):
        raise invalid(
            f"link name {name!r}: 1 to {IFNAME_MAX} characters, no blanks, '/', ':' or '%'",
        )
    return name


def check_hostname(name: str) -> str:
    """Return *name* if it is one lower-case host name label of at most 63 characters (RFC 1123), else INVALID."""
    if not _LABEL.fullmatch(name):
        raise invalid(
            f"host name {name!r}: 1 to {HOSTNAME_MAX} of a-z, 0-9 and '-', not beginning or ending with '-'",
        )
    return name


def check_host(name: str) -> str:
    """Return *name* if it can stand for a host: labels with dots between them, at most 253 characters, or an IPv4
    address; else INVALID."""
    try:
        return str(IPv4Address(name))
    except AddressValueError:
        pass
    labels = name.split(".")
    if (
        len(name) > HOST_MAX
        or (labels[1:] and labels[-1].isdigit())
        or not all(_LABEL.fullmatch(label) for label in labels)
    ):
        raise invalid(f"host {name!r}: an IPv4 address, or a lower-case name as host1 or host1.example.net")
    return name


def check_cluster_name(name: str) -> str:
    """Return *name* if it can name a cluster: a host name label of at most 32 characters, else INVALID.

    "host" is none: what clusters share on a host is marked with it (proto.marks).
    """
    if name == "host":
        raise invalid("cluster name 'host': it stands for what clusters share on a host")
    if not _CLUSTER.fullmatch(name):
        raise invalid(
            f"cluster name {name!r}: 1 to {CLUSTER_MAX} of a-z, 0-9 and '-', not beginning or ending with '-'",
        )
    return name


def make_link_name(readable: str, *, kind: str) -> str:
    """*readable* where it fits a link name, else KIND's first two letters and 12 hex digits of its SHA-256.

    48 bits of hash: two of 10,000 links collide with a probability of 2e-7.
    """
    if len(readable) <= IFNAME_MAX:
        return check_ifname(readable)
    digest = hashlib.sha256(f"{kind}\0{readable}".encode()).hexdigest()
    return f"{kind[:2]}-{digest[:12]}"


def make_vlan_name(parent: str, vid: int) -> str:
    """`PARENT.VID`, the usual name of an 802.1Q subinterface."""
    return make_link_name(f"{parent}.{vid}", kind="vlan")


def make_bridge_name(vid: int) -> str:
    """`lxcbrVID`: the bridge that a VLAN network of a cluster has on a host."""
    return make_link_name(f"lxcbr{vid}", kind="bridge")


def make_routed_bridge_name(cluster: str, network: str) -> str:
    """`br-CLUSTER.NETWORK`: the bridge of a routed network that is not the first of its host."""
    return make_link_name(f"br-{cluster}.{network}", kind="bridge")


def make_ipip_name(local: IPv4Address, remote: IPv4Address | None) -> str:
    """`tREMOTE` where it fits, else hashed from both ends; `tunnels` for the one that leads to any of them.

    Between two hosts there is one tunnel whatever the number of clusters, so no cluster's name is in it.
    """
    if remote is None:
        return "tunnels"
    readable = f"t{remote}"
    return readable if len(readable) <= IFNAME_MAX else make_link_name(f"t{remote} from {local}", kind="ipip")


def make_vxlan_name() -> str:
    """`vxlans`: a host has one, whatever the number of clusters and far ends."""
    return "vxlans"


def make_port_name(cluster: str, container: str) -> str:
    """The host's end of a container's veth pair: `CLUSTER.CONTAINER` where it fits."""
    return make_link_name(f"{cluster}.{container}", kind="veth")


def make_lxc_name(cluster: str, container: str) -> str:
    """The name LXC knows a container by: `CLUSTER.CONTAINER`. A dot is in neither, so no two pairs collide."""
    return f"{check_cluster_name(cluster)}.{check_hostname(container)}"
