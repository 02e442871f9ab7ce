"""NATBox's datapath with three stations in VLANs of their own, and raw sockets on every side of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from agent.kernel.natbox_door import NatboxDoor
from proto.model import Gateway
from tests.support.crossing import OUTSIDE, Crossing, mac_of, run
from tests.support.gateway import Previous, Station, ip_of, is_ipv4, make_gateway
from tests.support.wire import Frame, Tap

A = Station(vid=100, mac="02:00:00:00:00:a1")
B = Station(vid=200, mac="02:00:00:00:00:b1")
OTHER = Station(vid=300, mac="02:00:00:00:00:c1", address="192.168.30.50", gateway="192.168.30.1/24")
_LAST = ARP(op=1, hwsrc=OTHER.mac, psrc=OTHER.address, pdst=str(OTHER.network.ip))
#: Seconds that a frame may still be under way when one that was sent after it has come through: another CPU had it.
_OVERTAKEN = 0.05


@dataclass
class Box:
    """NATBox with A and B, which have the same address in VLANs of their own, and OTHER with another subnet."""

    around: Crossing
    door: NatboxDoor
    trunk: Tap
    world: Tap
    management: Tap
    last: Tap
    """At the trunk, too: hears the answer to the frame that is sent last."""
    mac: str
    """The trunk's."""
    uplink_mac: str
    world_mac: str

    def send(self, station: Station, layers: Packet, *, to: str = OUTSIDE) -> None:
        self.trunk.send(station.packet(layers, to=to, gateway_mac=self.mac))

    def answer(self, frame: Frame, layers: Packet, *, source: str = OUTSIDE) -> None:
        """From the world, back to where *frame* came from."""
        packet = IP(src=source, dst=ip_of(frame).src, id=2) / layers
        self.world.send(bytes(Ether(src=frame.destination, dst=frame.source) / packet))

    def come(self, layers: Packet, *, to: str, source: str = OUTSIDE, ttl: int = 64) -> None:
        """From the world, without having been asked."""
        packet = IP(src=source, dst=to, id=3, ttl=ttl) / layers
        self.world.send(bytes(Ether(src=self.world_mac, dst=self.uplink_mac) / packet))

    def reply(self, frame: Frame, layers: Packet, *, station: Station) -> None:
        """From *station*, to where *frame* came from."""
        self.send(station, layers, to=ip_of(frame).src)

    def change(self, before: Gateway, after: Gateway) -> Gateway:
        """Make the VLAN *before* into *after*, and be sure that the kernel says so; *after*."""
        self.door.change(before, after)
        seen = self.door.observe([before, after]).vlans[after.vid]
        assert (seen.gateway, seen.intact) == (after, True)
        assert self.door.observe_all()[after.vid] == seen
        return after

    def settle(self) -> None:
        """Return when everything that was sent has come through: the gateway has answered OTHER, who asked after it."""
        self.last.drain()
        self.trunk.send(bytes(Ether(src=OTHER.mac, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=OTHER.vid) / _LAST))
        assert self.last.collect(_is_last, timeout=10), "the gateway does not answer any more"
        time.sleep(_OVERTAKEN)

    def packets(self, tap: Tap) -> list[Frame]:
        """All IPv4 packets that have come, and will come, to *tap* of what was sent before."""
        self.settle()
        return [frame for frame in tap.drain() if is_ipv4(frame)]

    def hears_nothing(self, *taps: Tap) -> None:
        """No IPv4 packet has come, nor will come, to any of *taps* of what was sent before."""
        self.settle()
        heard = [frame for tap in taps for frame in tap.drain() if is_ipv4(frame)]
        assert not heard, f"forwarded: {[ip_of(frame).summary() for frame in heard]}"

    def drops(self) -> dict[tuple[int, str], int]:
        """By VID (0: of no cluster) and reason."""
        found = {(0, reason): number for reason, number in self.door.totals([A.vid, B.vid, OTHER.vid]).drops}
        for counters in self.door.counters([A.vid, B.vid, OTHER.vid]):
            found |= {(counters.vid, reason): number for reason, number in counters.drops}
        return found

    def drain(self) -> dict[tuple[int, str], int]:
        """Forget what was captured; the drops so far."""
        for tap in (self.trunk, self.world, self.management):
            tap.drain()
        return self.drops()

    def drops_since(self, before: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
        return {key: number - before.get(key, 0) for key, number in self.drops().items() if number != before.get(key)}


def _is_last(frame: Frame) -> bool:
    return frame.ethertype == 0x0806 and frame.tags == ((0x8100, OTHER.vid),) and frame.destination == OTHER.mac


def make_box() -> Iterator[Box]:
    """A box, and everything around it; the generator's end removes both."""
    around = Crossing()
    try:
        door = NatboxDoor(trunk="eth1", uplink="eth2", memory=Previous(), netns=around.natbox)
        door.lay_path()
        for station in (A, B, OTHER):
            door.create(make_gateway(station))
        mac = mac_of(around.outside, "eth0")
        run("ip", "neigh", "add", OUTSIDE, "lladdr", mac, "dev", "eth2", "nud", "permanent", netns=around.natbox)
        # The world is played by a raw socket: its own stack must not answer.
        run("nft", "add table netdev t; add chain netdev t c { type filter hook ingress device eth0 priority 0;"
            " policy drop; }", netns=around.outside)  # fmt: skip
        with (
            Tap(around.raw, "eth1") as trunk,
            Tap(around.outside, "eth0") as world,
            Tap(around.management, "eth0") as management,
            Tap(around.raw, "eth1") as last,
        ):
            uplink_mac = mac_of(around.natbox, "eth2")
            yield Box(around, door, trunk, world, management, last, around.trunk_mac, uplink_mac, mac)
        door.close()
    finally:
        around.close()
