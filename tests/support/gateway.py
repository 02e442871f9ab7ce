"""Tables for NATBox's tests, and stations: containers that are played by a raw socket on the trunk segment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from proto.model import Gateway, GatewayTable, Neighbour
from tests.support.wire import Frame, Tap


@dataclass(frozen=True)
class Station:
    """A container of a VLAN."""

    vid: int
    mac: str
    address: str = "192.168.10.50"
    gateway: str = "192.168.10.1/24"

    @property
    def network(self) -> ipaddress.IPv4Interface:
        return ipaddress.IPv4Interface(self.gateway)

    def packet(self, layers: Packet, *, to: str, gateway_mac: str) -> bytes:
        """A frame as it is on the trunk: one tag, our MAC and address."""
        ip = IP(src=self.address, dst=to, id=1)
        return bytes(Ether(src=self.mac, dst=gateway_mac) / Dot1Q(vlan=self.vid) / ip / layers)


def make_gateway(*stations: Station, cluster: str = "", network: str = "cluster") -> Gateway:
    """The VLAN of *stations*, of a cluster named after it where no name is given."""
    first = stations[0]
    return Gateway(
        cluster=cluster or f"c{first.vid}",
        network=network,
        vid=first.vid,
        gateway=first.network,
        neighbours=tuple(Neighbour(address=ipaddress.IPv4Address(each.address), mac=each.mac) for each in stations),
    )


def make_table(*gateways: Gateway, generation: int = 1) -> GatewayTable:
    return GatewayTable(cluster=gateways[0].cluster, generation=generation, gateways=gateways)


class Previous(dict[str, str]):
    """The memory of settings, without a file."""

    def put(self, name: str, value: str) -> None:
        self[name] = value

    def forget(self, name: str) -> None:
        self.pop(name, None)


def ip_of(frame: Frame) -> Packet:
    return IP(frame.payload)


def is_ipv4(frame: Frame) -> bool:
    return frame.ethertype == 0x0800


def check_sums(packet: Packet) -> None:
    """Every sum in *packet* is what scapy would compute."""
    again = packet.copy()
    for layer in (IP, UDP, TCP, ICMP):
        if again.haslayer(layer):
            del again[layer].chksum
    again = IP(bytes(again))
    for layer in (IP, UDP, TCP, ICMP):
        if again.haslayer(layer):
            assert packet[layer].chksum == again[layer].chksum, f"the sum of {layer.__name__} in {packet!r}"


def hears_nothing(tap: Tap, *, for_seconds: float = 0.3) -> None:
    """No IPv4 packet arrives at *tap*."""
    heard = tap.collect(is_ipv4, timeout=for_seconds)
    assert not heard, f"forwarded: {[ip_of(frame).summary() for frame in heard]}"
