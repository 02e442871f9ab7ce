"""Hosts and containers for tests of the kernel's door, in namespaces: made by iproute2 and nothing of ours.

box eth0 --- port [host: bridge, vlan] eth1 --- wire eth1
"""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

_numbers = itertools.count()
T = TypeVar("T")
HOST_ADDRESS, WIRE_ADDRESS = "192.168.2.25", "192.168.2.26"
WIRE_MAC, BOX_MAC = "02:00:00:00:00:aa", "02:00:00:00:00:bb"


def run(command: str, *, netns: str = "", check: bool = True) -> str:
    """A shell command line, inside *netns* where given; its standard output."""
    prefix = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    done = subprocess.run([*prefix, "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def poll_until(look: Callable[[], T], *, deadline: float, describe: Callable[[], object] = lambda: "") -> T:
    """What *look* returns once it is true. AssertionError with what was seen last, after *deadline* seconds."""
    end = time.monotonic() + deadline
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {deadline} s: saw {seen!r} {describe()}"
        time.sleep(0.02)
    return seen


class Namespaces:
    """Namespaces with a prefix of this process's own; `close` removes them and with them all that is inside."""

    def __init__(self) -> None:
        self._prefix = f"kern{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []

    def add(self, name: str, *, ipv6: bool = False) -> str:
        """A namespace with `lo` up; silent about IPv6 unless *ipv6*, so that frames can be counted."""
        full = f"{self._prefix}-{name}"
        run(f"ip netns add {full}")
        self._made.append(full)
        if not ipv6:
            run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", netns=full)
        run("ip link set lo up", netns=full)
        return full

    def close(self) -> None:
        for name in self._made:
            run(f"ip netns del {name}", check=False)


class Site:
    """A host with a trunk whose other end is bare wire. The host speaks IPv6, as hosts do; the others are silent."""

    def __init__(self) -> None:
        self.namespaces = Namespaces()
        try:
            self.host = self.namespaces.add("host", ipv6=True)
            self.wire = self.namespaces.add("wire")
            run(f"ip link add eth1 netns {self.host} type veth peer name eth1 netns {self.wire}")
            run(f"ip link set eth1 address {WIRE_MAC} up", netns=self.wire)
            # The trunk itself speaks no IPv6 here: what a vlan says has to be told from what it says.
            run("sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1; ip link set eth1 up", netns=self.host)
            run(f"ip address add {HOST_ADDRESS}/24 dev eth1", netns=self.host)
            run(f"ip address add {WIRE_ADDRESS}/24 dev eth1", netns=self.wire)
        except BaseException:
            self.close()
            raise

    def add_box(self, name: str, bridge: str, *, mac: str = BOX_MAC, address: str = "") -> str:
        """A namespace that stands for a container: its eth0 is joined to *bridge* of the host by the port `p-NAME`."""
        box = self.namespaces.add(name)
        run(f"ip link add p-{name} netns {self.host} type veth peer name eth0 netns {box}")
        run(f"ip link set eth0 address {mac} up", netns=box)
        if address:
            run(f"ip address add {address} dev eth0", netns=box)
        run(f"sysctl -qw net.ipv6.conf.p-{name}.disable_ipv6=1", netns=self.host)
        run(f"ip link set p-{name} master {bridge} up", netns=self.host)
        return box

    def close(self) -> None:
        self.namespaces.close()
