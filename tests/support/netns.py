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
        self._made.append(full)
        silence = "for d in all default; do echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6; done"
        quiet = "" if ipv6 else f" && nsenter --net=/run/netns/{full} sh -c '{silence}'"
        run(f"ip netns add {full} && ip -n {full} link set lo up{quiet}")
        return full

    def remove(self, full: str) -> None:
        """One of them, by what `add` returned, so that its name is free again."""
        self._made.remove(full)
        run(f"ip netns del {full}")

    def close(self) -> None:
        if self._made:
            run("; ".join(f"ip netns del {name}" for name in self._made), check=False)


class Site:
    """A host with a trunk whose other end is bare wire. The host speaks IPv6, as hosts do; the others are silent."""

    def __init__(self) -> None:
        self.namespaces = Namespaces()
        try:
            self.host = self.namespaces.add("host", ipv6=True)
            self.wire = self.namespaces.add("wire")
            # The trunk itself speaks no IPv6 here: what a vlan says has to be told from what it says.
            run(
                f"ip link add eth1 netns {self.host} type veth peer name eth1 netns {self.wire}"
                f" && ip -n {self.wire} -batch - <<END &&\n"
                f"link set eth1 address {WIRE_MAC} up\naddress add {WIRE_ADDRESS}/24 dev eth1\nEND\n"
                f"nsenter --net=/run/netns/{self.host} sh -c 'echo 1 > /proc/sys/net/ipv6/conf/eth1/disable_ipv6'"
                f" && ip -n {self.host} -batch - <<END\n"
                f"link set eth1 up\naddress add {HOST_ADDRESS}/24 dev eth1\nEND\n"
            )
        except BaseException:
            self.close()
            raise

    def add_box(self, name: str, bridge: str, *, mac: str = BOX_MAC, address: str = "") -> str:
        """A namespace that stands for a container: its eth0 is joined to *bridge* of the host by the port `p-NAME`."""
        box = self.namespaces.add(name)
        port, given = f"p-{name}", f"address add {address} dev eth0\n" if address else ""
        run(
            f"ip link add {port} netns {self.host} type veth peer name eth0 netns {box}"
            f" && ip -n {box} -batch - <<END &&\nlink set eth0 address {mac} up\n{given}END\n"
            f"nsenter --net=/run/netns/{self.host} sh -c 'echo 1 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6'"
            f" && ip -n {self.host} link set {port} master {bridge} up"
        )
        return box

    def close(self) -> None:
        self.namespaces.close()
