"""natbox-tcp, natbox-pps, natbox-rtt: through NATBox, against plain forwarding with nft's masquerade. natbox-python: a
loop in Python in its place, against NATBox. The lab's topology:

client (tagged) --+                +-- eth1 [natbox] eth2 ---- eth0 [outside]
                  switch (bridge) -+
client (plain) ---+                +-- eth1 [plain] eth2 ----- eth0 [outside of its own]
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from agent.kernel.natbox_door import NatboxDoor
from proto.model import Gateway, Neighbour
from tests.bench.figure import Figure, Goal, make_paired
from tests.bench.traffic import Traffic, alternate, drop_arrivals
from tests.support.crossing import OUTSIDE, Crossing, mac_of, run
from tests.support.gateway import Previous

#: Issue 5: NATBox on its BPF datapath, of plain forwarding.
STREAM_GOAL, PACKETS_GOAL = Goal(ratio_least=0.95), Goal(ratio_least=0.9)
#: Ours: nobody waits longer because there is a NATBox between; and a loop that came near would be the simpler NATBox.
TRIP_GOAL, LOOP_GOAL = Goal(ratio_most=1.2), Goal(ratio_most=0.5)
FIGURES = ("natbox-tcp", "natbox-pps", "natbox-rtt", "natbox-python")
PEER = "plain nft forwarding and masquerade, untagged"
VID, PAIRS, TRIPS = 100, 11, 500
LOOP_PAUSE = 0.3
#: The raw senders' MACs are those that traffic.c makes of their addresses.
TENANT, SENDER, GATEWAY = "10.0.100.50", "10.0.100.51", "10.0.100.1"
SENDER_MAC = "02:00:00:00:64:33"
PLAIN_TENANT, PLAIN_SENDER, PLAIN_GATEWAY = "10.0.200.50", "10.0.200.51", "10.0.200.1"
PLAIN_UPLINK = "203.0.113.1"
RULES = """table ip bench {
    chain forward { type filter hook forward priority filter; ct state invalid drop; }
    chain leave { type nat hook postrouting priority srcnat; oifname "eth2" masquerade fully-random; }
}"""


class Site:
    """Both gateways with a client and a raw sender each."""

    def __init__(self, folder: Path, around: ExitStack) -> None:
        self._crossing = crossing = Crossing()
        around.callback(crossing.close)
        self.outside = crossing.outside
        self.client = crossing.add_tenant(VID, f"{TENANT}/24", GATEWAY, build=folder)
        self._open_natbox(around)
        self.plain, self.plain_outside, self.plain_client = (
            crossing.add_namespace(name) for name in ("plain", "out2", "client")
        )
        self._make_plain()
        self.mac, self.plain_mac = crossing.trunk_mac, mac_of(self.plain, "eth1")
        self.sender = crossing.raw
        for client, outside in ((self.client, self.outside), (self.plain_client, self.plain_outside)):
            run("ping", "-q", "-c", "1", "-W", "5", OUTSIDE, netns=client)
            drop_arrivals(outside, "eth0")

    def _open_natbox(self, around: ExitStack) -> None:
        door = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=self._crossing.natbox)
        around.callback(door.close)
        door.lay_path()
        neighbours = ((TENANT, mac_of(self.client, "eth1")), (SENDER, SENDER_MAC))
        door.create(
            Gateway(
                cluster="bench",
                network="cluster",
                vid=VID,
                gateway=ipaddress.IPv4Interface(f"{GATEWAY}/24"),
                neighbours=tuple(Neighbour(address=ipaddress.IPv4Address(one), mac=mac) for one, mac in neighbours),
            )
        )

    def _make_plain(self) -> None:
        crossing = self._crossing
        for netns, address in ((self.plain, PLAIN_GATEWAY), (self.plain_client, PLAIN_TENANT)):
            crossing.plug(netns, "eth1")
            run("ip", "address", "add", f"{address}/24", "dev", "eth1", netns=netns)
        crossing.join((self.plain, "eth2", f"{PLAIN_UPLINK}/24"), (self.plain_outside, "eth0", f"{OUTSIDE}/24"))
        run("ip", "route", "add", "default", "via", PLAIN_GATEWAY, netns=self.plain_client)
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", netns=self.plain)
        run("sh", "-c", f"nft -f - <<'END'\n{RULES}\nEND", netns=self.plain)

    def frames(self, traffic: Traffic) -> float:
        """Packets per second through NATBox."""
        return traffic.frames(self.sender, "eth1", self.mac, VID, SENDER, OUTSIDE, receiver=self.outside, at="eth0")

    def trip(self, client: str) -> float:
        """Microseconds there and back, the mean of as many echo requests as fit one after the other."""
        said = run("ping", "-q", "-A", "-c", str(TRIPS), OUTSIDE, netns=client).stdout
        return float(said.rpartition(" = ")[2].split("/")[1]) * 1000

    def loop_frames(self, traffic: Traffic) -> float:
        """Packets per second through a loop in Python that has a trunk port and an uplink of its own."""
        time.sleep(LOOP_PAUSE)  # what is in its socket from the run before is not this one's
        return traffic.frames(
            self.sender, "eth1", mac_of(self.loop, "eth1"), VID, SENDER, OUTSIDE, receiver=self.loop_outside, at="eth0"
        )

    def open_loop(self, around: ExitStack) -> None:
        crossing = self._crossing
        self.loop, self.loop_outside = crossing.add_namespace("loop"), crossing.add_namespace("out3")
        crossing.plug(self.loop, "eth1")
        crossing.join((self.loop, "eth2", f"{PLAIN_UPLINK}/24"), (self.loop_outside, "eth0", f"{OUTSIDE}/24"))
        drop_arrivals(self.loop_outside, "eth0")
        next_mac = mac_of(self.loop_outside, "eth0").replace(":", "")
        words = ("tests.bench.natbox_loop", "eth1", "eth2", str(VID), PLAIN_UPLINK, next_mac)
        loop = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.loop}", sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        around.callback(loop.wait)
        around.callback(loop.kill)
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n", "the loop did not start"

    def plain_frames(self, traffic: Traffic) -> float:
        """Packets per second through plain forwarding."""
        return traffic.frames(
            self.sender, "eth1", self.plain_mac, 0, PLAIN_SENDER, OUTSIDE, receiver=self.plain_outside, at="eth0"
        )


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    traffic = Traffic(folder)
    with ExitStack() as around:
        site = Site(folder, around)
        if "natbox-tcp" in wanted:
            runs = alternate(
                PAIRS,
                lambda: traffic.stream(site.client, site.outside, OUTSIDE),
                lambda: traffic.stream(site.plain_client, site.plain_outside, OUTSIDE),
            )
            yield make_paired("natbox-tcp", runs, unit="Gb/s", peer=PEER, goal=STREAM_GOAL)
        if "natbox-pps" in wanted:
            runs = alternate(PAIRS, lambda: site.frames(traffic), lambda: site.plain_frames(traffic))
            yield make_paired("natbox-pps", runs, unit="packets/s", peer=PEER, goal=PACKETS_GOAL)
        if "natbox-rtt" in wanted:
            runs = alternate(PAIRS, lambda: site.trip(site.client), lambda: site.trip(site.plain_client))
            yield make_paired("natbox-rtt", runs, unit="us", peer=PEER, goal=TRIP_GOAL)
        if "natbox-python" in wanted:
            site.open_loop(around)
            runs = alternate(PAIRS, lambda: site.loop_frames(traffic), lambda: site.frames(traffic))
            yield make_paired("natbox-python", runs, unit="packets/s", peer="NATBox in the kernel", goal=LOOP_GOAL)
