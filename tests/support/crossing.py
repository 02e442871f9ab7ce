"""NATBox's surroundings for tests, in namespaces: a trunk segment that passes tags, a world, tenants.

tenant(s), raw tap --- switch (bridge) --- eth1 [natbox] eth2 --- outside 203.0.113.254/24
                                           eth0 [natbox] 192.168.2.24/24 --- management 192.168.2.1
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
UPLINK, OUTSIDE, MANAGEMENT = "203.0.113.1", "203.0.113.254", "192.168.2.24"
_numbers = itertools.count()


def run(*argv: str, netns: str = "", check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A command, inside *netns* where given."""
    prefix = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    if argv[:3] == ("tc", "filter", "add"):
        prefix += ["unshare", "--mount"]  # tc mounts a bpf file system on /sys/fs/bpf, and leaves it there
    return subprocess.run([*prefix, *argv], capture_output=True, text=True, check=check, timeout=timeout)


class Crossing:
    """The namespaces of one test; `close` removes all of them."""

    def __init__(self) -> None:
        self.prefix = f"nbt{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []
        self.natbox, self.outside = self.add_namespace("natbox"), self.add_namespace("out")
        self.switch, self.management = self.add_namespace("sw"), self.add_namespace("mgmt")
        run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", netns=self.switch)
        run("ip", "link", "set", "br0", "up", netns=self.switch)
        self.raw = self.add_namespace("raw")
        self.plug(self.raw, "eth1")
        self.plug(self.natbox, "eth1")
        self.join((self.natbox, "eth2", f"{UPLINK}/24"), (self.outside, "eth0", f"{OUTSIDE}/24"))
        self.join((self.natbox, "eth0", f"{MANAGEMENT}/24"), (self.management, "eth0", "192.168.2.1/24"))
        run("ip", "route", "add", "default", "via", OUTSIDE, netns=self.natbox)

    @property
    def trunk_mac(self) -> str:
        return mac_of(self.natbox, "eth1")

    def add_namespace(self, name: str) -> str:
        full = f"{self.prefix}-{name}"
        self._made.append(full)
        # No router solicitations among the frames that tests count.
        silence = "for d in all default; do echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done"
        run("ip", "netns", "add", full)
        run("sh", "-ec", f"{silence}; ip link set lo up", netns=full)
        return full

    def plug(self, netns: str, link: str) -> None:
        """A link of *netns* whose other end is a port of the switch."""
        port = f"p{next(_numbers)}"
        run(
            *("sh", "-ec"),
            f"ip link add {link} netns {netns} type veth peer name {port} netns {self.switch}; "
            f"ip -n {self.switch} link set {port} master br0 up; ip -n {netns} link set {link} up",
        )

    def join(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        """A veth pair; each end is (namespace, link, address)."""
        ends = "; ".join(
            f"ip -n {netns} address add {address} dev {link}; ip -n {netns} link set {link} up"
            for netns, link, address in (one, other)
        )
        pair = f"ip link add {one[1]} netns {one[0]} type veth peer name {other[1]} netns {other[0]}"
        run("sh", "-ec", f"{pair}; {ends}")

    def add_tenant(self, vid: int, address: str, gateway: str, *, build: Path, name: str = "") -> str:
        """A namespace whose eth1 is untagged inside and tagged *vid* on the switch, with a stack of its own."""
        netns = self.add_namespace(name or f"t{vid}-{next(_numbers)}")
        self.plug(netns, "eth1")
        target = make_tag(build, vid)
        run("tc", "qdisc", "add", "dev", "eth1", "clsact", netns=netns)
        for direction, section in (("egress", "tc/push"), ("ingress", "tc/pop")):
            place = ["tc", "filter", "add", "dev", "eth1", direction, "bpf", "da"]
            run(*place, "obj", str(target), "sec", section, netns=netns)
        run("ip", "address", "add", address, "dev", "eth1", netns=netns)
        run("ip", "route", "add", "default", "via", gateway, netns=netns)
        return netns

    def close(self) -> None:
        run("sh", "-c", "; ".join(f"ip netns del {netns}" for netns in self._made), check=False)


def make_tag(build: Path, vid: int) -> Path:
    """The compiled program of a tenant's, in *build*: made where it is not there."""
    target = build / f"tag{vid}.o"
    if not target.exists():
        include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
        flags = ["-O2", "-g", "-target", "bpf", f"-DVID={vid}", include]
        run("clang", *flags, "-c", str(HERE / "tag.bpf.c"), "-o", str(target))
    return target


def mac_of(netns: str, link: str) -> str:
    """The link's MAC, as `ip` says it."""
    words = run("ip", "-o", "link", "show", link, netns=netns).stdout.split()
    return words[words.index("link/ether") + 1]
