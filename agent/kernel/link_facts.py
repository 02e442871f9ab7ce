"""What the network namespace that the process is in says of a link and of itself, without netlink: ioctl and /proc.

For the child process of a burst, which is in one namespace after the other: netdevice(7), route.c's /proc/net/route.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path
from typing import Any

SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFMTU = 0x8913, 0x8915, 0x8921
IFF_UP, IFF_RUNNING = 0x1, 0x40
RTF_UP, RTF_REJECT = 0x1, 0x200
_REQUEST = 40  # bytes of struct ifreq
_NET = Path("/proc/self/net")
_NEIGHBOURS = Path("/proc/1/net/stat/arp_cache")


def read_facts(link: str) -> dict[str, Any]:
    """{"up", "mtu", "addresses", "routes"} of *link* in this namespace: destinations as "10.0.0.0/8".

    up is False, mtu 0 and addresses empty where there is no such link.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        flags = _ask(asked, SIOCGIFFLAGS, link)
        mtu = _ask(asked, SIOCGIFMTU, link)
        address = _ask(asked, SIOCGIFADDR, link)
    bits = struct.unpack_from("=H", flags, 16)[0] if flags else 0
    return {
        "up": bool(bits & IFF_UP) and bool(bits & IFF_RUNNING),
        "mtu": struct.unpack_from("=i", mtu, 16)[0] if mtu else 0,
        "addresses": [socket.inet_ntoa(address[20:24])] if address else [],
        "routes": read_routes((_NET / "route").read_text()),
    }


def read_routes(text: str) -> list[str]:
    """The destinations that /proc/net/route (*text*) has a way to, those of the main table."""
    found = []
    for line in text.splitlines()[1:]:
        _, destination, _, flags, _, _, _, mask, *_ = line.split()
        if int(flags, 16) & RTF_UP and not int(flags, 16) & RTF_REJECT:
            network = socket.inet_ntoa(struct.pack("=I", int(destination, 16)))
            found.append(f"{network}/{int(mask, 16).bit_count()}")
    return found


def read_reverse_path() -> int:
    """Packets this namespace dropped since it was made because their source leads elsewhere (snmp_counter.rst)."""
    lines = [line.split() for line in (_NET / "netstat").read_text().splitlines() if line.startswith("TcpExt:")]
    return int(dict(zip(*lines, strict=True)).get("IPReversePathFilter", 0))


def read_neighbour_overflows() -> int:
    """How often a neighbour was not kept since the machine started, as the table was full (arp(7): gc_thresh3).

    The table is one for all namespaces, and its counts are the first one's alone to see. 0 where it is not the one of
    process 1, whose it is wherever that is no container.
    """
    try:
        text = _NEIGHBOURS.read_text()
    except OSError:
        return 0
    head, *cpus = (line.split() for line in text.splitlines())
    return sum(int(cpu[head.index("table_fulls")], 16) for cpu in cpus)


def _ask(asked: socket.socket, what: int, link: str) -> bytes:
    try:
        return fcntl.ioctl(asked, what, link.encode().ljust(_REQUEST, b"\0"))
    except OSError:  # no such link, or it has no address
        return b""
