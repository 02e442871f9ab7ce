"""Runs inside a container: asks every target by ICMP echo, and listens who asks here (RFC 792, RFC 5227).

Two requests to each target: a small one, and one that fills the MTU with "don't fragment" set. A request bears its
sender's address, so that whoever gets it can tell whether it was translated on the way. Last, who else says that this
container's address is theirs. Prints one JSON object.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

ECHO_REPLY, ECHO_REQUEST = 0, 8
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
MAGIC = b"caas-reach "
#: Requests that are not answered are sent again after so many seconds.
AGAIN = 0.4
ARP_REQUEST, ARP_REPLY = 1, 2
HEADERS = 28  # IPv4 and ICMP


def checksum(data: bytes) -> int:
    """RFC 1071; an odd last byte counts with a zero byte after it."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def make_request(own: str, number: int, size: int) -> bytes:
    """An echo request of *size* bytes of payload that bears its sender's address."""
    payload = (MAGIC + own.encode() + b" ").ljust(size, b".")
    header = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, os.getpid() & 0xFFFF, number)
    total = checksum(header + payload)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, total, os.getpid() & 0xFFFF, number) + payload


class Burst:
    """Sends to all targets, collects what comes back and who asks."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.own, self.targets = str(job["own"]), [str(address) for address in job["targets"]]
        small, full = 32, int(job["mtu"]) - HEADERS
        #: number of a request -> (target, whether it fills the MTU)
        self.open = {2 * at + fill: (target, bool(fill)) for at, target in enumerate(self.targets) for fill in (0, 1)}
        self.sizes = (small, full)
        self.answered: dict[str, dict[bool, float]] = {target: {} for target in self.targets}
        self.refused: dict[str, str] = {}
        self.heard: dict[str, str] = {}
        self.sent: dict[int, float] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.setblocking(False)

    def send_open(self) -> None:
        for number, (target, fills) in self.open.items():
            try:
                self.sent[number] = time.monotonic()
                self.socket.sendto(make_request(self.own, number, self.sizes[fills]), (target, 0))
            except OSError as exc:
                self.refused[target] = os.strerror(exc.errno or 0)

    def take(self) -> None:
        """Everything that has arrived."""
        while True:
            try:
                data, (source, _) = self.socket.recvfrom(1 << 16)
            except BlockingIOError:
                return
            message = data[(data[0] & 15) * 4 :]
            kind, _, _, ident, number = struct.unpack_from("!BBHHH", message)
            payload = message[8:]
            if kind == ECHO_REPLY and ident == os.getpid() & 0xFFFF and number in self.open:
                target, fills = self.open[number]
                if source == target:
                    del self.open[number]
                    self.answered[target][fills] = time.monotonic() - self.sent[number]
            elif kind == ECHO_REQUEST and payload.startswith(MAGIC):
                sender = payload[len(MAGIC) :].split(b" ")[0].decode()
                if sender != self.own:
                    self.heard[sender] = source

    def run(self, settle: float, seconds: float) -> None:
        """Wait *settle* (others are starting too), ask, and listen until *seconds* after that."""
        began = time.monotonic()
        again, end = began + settle, began + settle + seconds
        while (now := time.monotonic()) < end:
            if now >= again:
                self.send_open()
                again = now + AGAIN
            select.select([self.socket], [], [], max(0.0, min(again, end) - now))
            self.take()


def find_twins(own: str, link: str, seconds: float) -> list[str]:
    """MACs of others that say *own* is theirs (an ARP probe, RFC 5227 2.1.1)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as arp:
        arp.bind((link, 0x0806))
        mac = arp.getsockname()[4]
        head = b"\xff" * 6 + mac + struct.pack("!H", 0x0806)
        probe = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ARP_REQUEST) + mac + bytes(4) + bytes(6)
        arp.send(head + probe + socket.inet_aton(own))
        found, end = set(), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([arp], [], [], left)[0]:
            frame = arp.recv(128)
            operation, sender, address = struct.unpack("!H", frame[20:22])[0], frame[22:28], frame[28:32]
            if operation == ARP_REPLY and address == socket.inet_aton(own) and sender != mac:
                found.add(sender.hex(":"))
    return sorted(found)


def main(job: dict[str, Any]) -> None:
    """*job*: own, targets (addresses), mtu, link, settle, seconds."""
    burst = Burst(job)
    burst.run(float(job["settle"]), float(job["seconds"]))
    twins = find_twins(burst.own, str(job["link"]), 0.2)
    answered = {
        target: {"reached": False in times, "full": True in times, "seconds": times.get(False)}
        for target, times in burst.answered.items()
    }
    json.dump({"answered": answered, "refused": burst.refused, "heard": burst.heard, "twins": twins}, sys.stdout)
