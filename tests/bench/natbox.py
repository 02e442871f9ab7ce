"""natbox-tcp, natbox-pps, natbox-rtt: through NATBox, against plain forwarding with nft's masquerade. natbox-8021q-*:
against a gateway that keeps the same promises with the kernel's own 8021q devices (DEVICE_RULES). natbox-bare-8021q-*:
against such a device with plain forwarding behind it, which checks nothing and has one VLAN. natbox-python: a loop in
Python in its place, against NATBox. The lab's topology, each with an `outside` of its own:

client (tagged) --+                +-- eth1 [natbox] eth2 ---- eth0 [outside]
client (plain) ---+                +-- eth1 [gw0] eth2 ------- eth0 [out0]
                  switch (bridge) -+
client (tagged) --+                +-- eth1.300 eth1 [gw300] eth2 --- eth0 [out300]
client (tagged) --+                +-- eth1.310 eth1 [gw310] eth2 --- eth0 [out310]
raw sender -------+                +-- eth1 [loop] eth2 ------ eth0 [out3]
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.natbox_door import NatboxDoor
from proto.model import Gateway, Neighbour
from tests.bench.carrier import Goals, compare, find_lacking
from tests.bench.figure import Figure, Goal, make_paired
from tests.bench.traffic import Traffic, alternate, drop_arrivals, load_rules
from tests.support.crossing import OUTSIDE, UPLINK, Crossing, mac_of, run
from tests.support.gateway import Previous

#: Issue 5: NATBox on its BPF datapath, of plain forwarding; and at least what 8021q devices give.
STREAM_GOAL, PACKETS_GOAL = Goal(ratio_least=0.95), Goal(ratio_least=0.9)
DEVICE_GOAL = Goal(ratio_least=1.0)
#: Ours: nobody waits longer because there is a NATBox between.
TRIP_GOAL = Goal(ratio_most=1.2)
PLAIN = {"natbox-tcp": STREAM_GOAL, "natbox-pps": PACKETS_GOAL}
DEVICES: Goals = {"natbox-8021q-tcp": DEVICE_GOAL, "natbox-8021q-pps": DEVICE_GOAL}
BARE: Goals = {"natbox-bare-8021q-tcp": None, "natbox-bare-8021q-pps": None}
FIGURES = (*PLAIN, "natbox-rtt", *DEVICES, *BARE, "natbox-python")
PLAIN_PEER = "plain nft forwarding and masquerade, untagged"
DEVICE_PEER = "8021q devices, nftables, a zone and a policy rule for each VLAN: the same promises"
BARE_PEER = "an 8021q device, nft forwarding and masquerade: one VLAN, no checks"
TRIPS = 500
LOOP_PAUSE = 0.3
#: VLANs, and the networks in them; 0: untagged. Of each, .1 is the gateway, .50 the client, .51 the raw sender.
VID, BARE_VID, DEVICE_VID, UNTAGGED = 100, 300, 310, 0
NETWORKS = {VID: "10.0.100", BARE_VID: "10.0.220", DEVICE_VID: "10.0.230", UNTAGGED: "10.0.200"}
#: traffic.c makes it of the address.
SENDER_MAC = "02:00:00:00:64:33"
RULES = """table ip bench {
    chain forward { type filter hook forward priority filter; ct state invalid drop; }
    chain leave { type nat hook postrouting priority srcnat; oifname "eth2" masquerade fully-random; }
}"""
#: NATBox's promises (docs/natbox.md) with 8021q devices, as cheaply as it goes: VLANs that may have the same subnet are
#: told apart by a conntrack zone on the way out, and by the connection's mark and a policy rule on the way back; a
#: sender must be known; what nobody asked for is dropped; TCP is clamped. Whatever differs from one VLAN to the next is
#: looked up in a map, for there may be 4,094. Left out, though NATBox has it: counting (the device does some of it),
#: the sender's MAC, and what asks only for the first packet of a connection: limits, and what is published.
DEVICE_RULES = """table ip bench {{
    map zones {{ typeof iif : ct zone; elements = {{ "{link}" : {vid} }}; }}
    map marks {{ typeof iif : meta mark; elements = {{ "{link}" : {vid} }}; }}
    set senders {{ typeof iif . ip saddr; elements = {{ "{link}" . {network}.50, "{link}" . {network}.51 }}; }}
    chain tell_apart {{ type filter hook prerouting priority raw; ct original zone set iif map @zones; }}
    chain way_back {{ type filter hook prerouting priority mangle; iif "eth2" meta mark set ct mark; }}
    chain forward {{
        type filter hook forward priority filter;
        ct state invalid drop
        tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        iif "eth2" ct status confirmed accept
        oif "eth2" iif . ip saddr != @senders drop
        oif "eth2" ct status confirmed accept
        oif "eth2" ct mark set iif map @marks accept
        drop
    }}
    chain leave {{ type nat hook postrouting priority srcnat; oifname "eth2" masquerade fully-random; }}
}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Through one gateway to its *outside*: from *client*, and from the raw socket of *sender*, in the VLAN *vid*."""

    gateway_mac: str
    vid: int
    outside: str
    sender: str
    client: str = ""

    def stream(self, traffic: Traffic) -> float:
        """Gb/s."""
        return traffic.stream(self.client, self.outside, OUTSIDE)

    def packets(self, traffic: Traffic) -> float:
        """Per second, from the raw sender."""
        source = f"{NETWORKS[self.vid]}.51"
        return traffic.frames(
            self.sender, "eth1", self.gateway_mac, self.vid, source, OUTSIDE, receiver=self.outside, at="eth0"
        )

    def trip(self) -> float:
        """Microseconds there and back, the mean of as many echo requests as fit one after the other."""
        said = run("ping", "-q", "-A", "-c", str(TRIPS), OUTSIDE, netns=self.client).stdout
        return float(said.rpartition(" = ")[2].split("/")[1]) * 1000


class Site:
    """NATBox with a client and a raw sender, and whatever is added to compare it with."""

    def __init__(self, folder: Path, around: ExitStack) -> None:
        self._folder, self._around = folder, around
        self._crossing = crossing = Crossing()
        around.callback(crossing.close)
        client = self._add_client(VID)
        self._open_natbox(client)
        self.natbox = self._try(crossing.natbox, crossing.outside, VID, client)

    def _add_client(self, vid: int) -> str:
        network, crossing = NETWORKS[vid], self._crossing
        address, gateway = f"{network}.50/24", f"{network}.1"
        if vid:
            return crossing.add_tenant(vid, address, gateway, build=self._folder)
        client = crossing.add_namespace("client")
        crossing.plug(client, "eth1")
        run("ip", "address", "add", address, "dev", "eth1", netns=client)
        run("ip", "route", "add", "default", "via", gateway, netns=client)
        return client

    def _open_natbox(self, client: str) -> None:
        door = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=self._crossing.natbox)
        self._around.callback(door.close)
        door.lay_path()
        network = NETWORKS[VID]
        neighbours = ((f"{network}.50", mac_of(client, "eth1")), (f"{network}.51", SENDER_MAC))
        door.create(
            Gateway(
                cluster="bench",
                network="cluster",
                vid=VID,
                gateway=ipaddress.IPv4Interface(f"{network}.1/24"),
                neighbours=tuple(Neighbour(address=ipaddress.IPv4Address(one), mac=mac) for one, mac in neighbours),
            )
        )

    def _try(self, gateway: str, outside: str, vid: int, client: str) -> Way:
        """The way through *gateway*, over which a packet of the client's has gone there and back."""
        run("ping", "-q", "-c", "1", "-W", "5", OUTSIDE, netns=client)
        drop_arrivals(outside, "eth0")
        mac = mac_of(gateway, "eth1")
        return Way(gateway_mac=mac, vid=vid, outside=outside, sender=self._crossing.raw, client=client)

    def _add_pair(self, name: str, outside_name: str) -> tuple[str, str]:
        """A gateway with a port of the switch, and its outside."""
        crossing = self._crossing
        gateway, outside = crossing.add_namespace(name), crossing.add_namespace(outside_name)
        crossing.plug(gateway, "eth1")
        crossing.join((gateway, "eth2", f"{UPLINK}/24"), (outside, "eth0", f"{OUTSIDE}/24"))
        return gateway, outside

    def add_kernel(self, vid: int) -> Way:
        """Routing, connection tracking and masquerade of the kernel's, and its 8021q device where *vid* is not 0."""
        gateway, outside, _ = self._add_gateway(vid)
        load_rules(gateway, RULES)
        return self._try(gateway, outside, vid, self._add_client(vid))

    def add_devices(self, vid: int) -> Way:
        """A gateway that keeps NATBox's promises by 8021q devices; of its VLANs, this one."""
        gateway, outside, link = self._add_gateway(vid)
        network = NETWORKS[vid]
        run("ip", "route", "add", f"{network}.0/24", "dev", link, "table", str(vid), netns=gateway)
        run("ip", "rule", "add", "fwmark", str(vid), "lookup", str(vid), netns=gateway)
        load_rules(gateway, DEVICE_RULES.format(link=link, vid=vid, network=network))
        return self._try(gateway, outside, vid, self._add_client(vid))

    def _add_gateway(self, vid: int) -> tuple[str, str, str]:
        """One that forwards between its *outside* and a link, an 8021q device where *vid* is not 0; the three."""
        gateway, outside = self._add_pair(f"gw{vid}", f"out{vid}")
        link = f"eth1.{vid}" if vid else "eth1"
        if vid:
            run("ip", "link", "add", link, "link", "eth1", "type", "vlan", "id", str(vid), netns=gateway)
            run("ip", "link", "set", link, "up", netns=gateway)
        run("ip", "address", "add", f"{NETWORKS[vid]}.1/24", "dev", link, netns=gateway)
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", netns=gateway)
        return gateway, outside, link

    def add_loop(self) -> Way:
        """A loop in Python, which answers no client."""
        gateway, outside = self._add_pair("loop", "out3")
        drop_arrivals(outside, "eth0")
        next_mac = mac_of(outside, "eth0").replace(":", "")
        words = ("tests.bench.natbox_loop", "eth1", "eth2", str(VID), UPLINK, next_mac)
        loop = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{gateway}", sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._around.callback(loop.wait)
        self._around.callback(loop.kill)
        assert loop.stdout is not None
        assert loop.stdout.readline() == "ready\n", "the loop did not start"
        mac = mac_of(gateway, "eth1")
        return Way(gateway_mac=mac, vid=VID, outside=outside, sender=self._crossing.raw)


def measure(wanted: frozenset[str], folder: Path) -> Iterator[Figure]:
    """The figures of FIGURES that are *wanted*. Works in *folder*."""
    devices, bare = ({name: goal for name, goal in some.items() if name in wanted} for some in (DEVICES, BARE))
    lacking = find_lacking({**devices, **bare}, "vlan")
    yield from lacking
    if wanted.issubset(one.name for one in lacking):
        return
    traffic = Traffic(folder)
    with ExitStack() as around:
        site = Site(folder, around)
        yield from _against_plain(wanted, site, traffic)
        if devices and not lacking:
            yield from compare(devices, site.natbox, site.add_devices(DEVICE_VID), peer=DEVICE_PEER, traffic=traffic)
        if bare and not lacking:
            yield from compare(bare, site.natbox, site.add_kernel(BARE_VID), peer=BARE_PEER, traffic=traffic)
        if "natbox-python" in wanted:
            loop = site.add_loop()
            runs = alternate(lambda: _loop_packets(loop, traffic), lambda: site.natbox.packets(traffic))
            yield make_paired("natbox-python", runs, unit="packets/s", peer="NATBox in the kernel", goal=None)


def _against_plain(wanted: frozenset[str], site: Site, traffic: Traffic) -> Iterator[Figure]:
    goals = {name: goal for name, goal in PLAIN.items() if name in wanted}
    if not goals and "natbox-rtt" not in wanted:
        return
    plain = site.add_kernel(UNTAGGED)
    yield from compare(goals, site.natbox, plain, peer=PLAIN_PEER, traffic=traffic)
    if "natbox-rtt" in wanted:
        runs = alternate(site.natbox.trip, plain.trip)
        yield make_paired("natbox-rtt", runs, unit="us", peer=PLAIN_PEER, goal=TRIP_GOAL)


def _loop_packets(loop: Way, traffic: Traffic) -> float:
    time.sleep(LOOP_PAUSE)  # what is in its socket from the run before is not this one's
    return loop.packets(traffic)
