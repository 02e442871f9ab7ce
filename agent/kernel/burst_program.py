"""Asks from every container of a host at once whom they reach: `python -m agent.kernel.burst_program`, a child process.

Reads one job (JSON) from standard input and prints one report. A socket belongs to the network namespace in which it
was made (network_namespaces(7)): the process enters each namespace for a moment, makes its sockets there, and then
serves all of them from one loop. So nothing has to be in the containers, and there is one process, not one for each.

Each target gets two echo requests (RFC 792): a small one, and one that fills the MTU with "don't fragment" set. A
request bears its sender's address, so that whoever gets it can tell whether it was translated on the way. Meanwhile
it is asked who else has the containers' addresses (RFC 5227), and seen what leaves and enters the host tagged or in
tunnels (agent.kernel.burst_tap). Standard library only, and without site-packages: it has to start fast.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.kernel.burst_tap import ARP_REPLIES, Tap, attach_filter
from agent.kernel.inside import enter_netns
from agent.kernel.link_facts import read_facts, read_neighbour_overflows, read_reverse_path
from proto.errors import CaasError

ECHO_REPLY, UNREACHABLE, ECHO_REQUEST = 0, 3, 8
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
SO_RCVBUFFORCE = 33
BUFFER = 4 << 20
MAGIC = b"caas-reach "
#: Requests that are not answered are sent again after so many seconds.
AGAIN = 0.4
#: So long an owner of a duplicate address has to say so, before a burst may end early.
TWIN = 0.25
#: How many are sent before what has come meanwhile is taken: a queue of a device is 1,000 packets long.
AT_ONCE = 128
ARP, ARP_REQUEST, ARP_REPLY = 0x0806, 1, b"\0\2"
HEADERS = 28  # IPv4 and ICMP
SMALL = 32
IDENT = os.getpid() & 0xFFFF


def checksum(data: bytes) -> int:
    """RFC 1071; an odd last byte counts with a zero byte after it."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Requests:
    """Echo requests of one sender; all that differs is their number, so the sum over the rest is made once."""

    def __init__(self, own: str, size: int) -> None:
        self._payload = (MAGIC + own.encode() + b" ").ljust(size, b".")
        self._sum = ~checksum(struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, IDENT, 0) + self._payload) & 0xFFFF

    def make(self, number: int) -> bytes:
        """The request with that number, 0..65535."""
        total = self._sum + number
        total = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
        return struct.pack("!BBHHH", ECHO_REQUEST, 0, total, IDENT, number) + self._payload


class Asker:
    """One container: what it asks, what came back, who asked it. Made by a process that is in its namespace."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.hostname, self.own, self.link = str(job["hostname"]), str(job["address"]), str(job["link"])
        self.targets = [str(address) for address in job["targets"]]
        self._askers = int(job["askers"])
        self._requests = (Requests(self.own, SMALL), Requests(self.own, max(SMALL, int(job["mtu"]) - HEADERS)))
        #: number of a request -> (target, whether it fills the MTU)
        self.open = {2 * at + fill: (target, bool(fill)) for at, target in enumerate(self.targets) for fill in (0, 1)}
        self.answered: dict[str, dict[bool, float]] = {target: {} for target in self.targets}
        self.refused: dict[str, str] = {}
        self.told: dict[str, dict[str, Any]] = {}
        self.heard: dict[str, dict[str, Any]] = {}
        self.twins: set[str] = set()
        self._sent: dict[int, float] = {}
        self.facts = read_facts(self.link)
        self._reverse_path = read_reverse_path()
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.icmp.setblocking(False)
        self.icmp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        # PROBE: "don't fragment", whatever the path's MTU is said to be.
        self.icmp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self.arp = self._open_arp()

    def _open_arp(self) -> socket.socket | None:
        arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        attach_filter(arp, ARP_REPLIES)
        try:
            arp.bind((self.link, ARP))
        except OSError:  # no such link, or it is down: its facts say so
            arp.close()
            return None
        arp.setblocking(False)
        return arp

    @property
    def is_done(self) -> bool:
        """Every answer is in, and all who ask it have been heard with both of their requests."""
        return (
            not self.open
            and len(self.heard) >= self._askers
            and all(seen["full"] and seen["small"] for seen in self.heard.values())
        )

    def send(self, number: int) -> None:
        target, fills = self.open[number]
        try:
            self._sent[number] = time.monotonic()
            self.icmp.sendto(self._requests[fills].make(number), (target, 0))
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE and fills:
                self.told.setdefault(target, {"code": 4, "by": self.own, "mtu": self.facts.get("mtu", 0)})
            else:
                self.refused[target] = errno.errorcode.get(exc.errno or 0, "") or str(exc)

    def take(self) -> None:
        """Everything that has arrived."""
        while True:
            try:
                data, (source, _) = self.icmp.recvfrom(1 << 16)
            except (BlockingIOError, OSError):
                return
            message = data[(data[0] & 15) * 4 :]
            kind, code, _, ident, number = struct.unpack_from("!BBHHH", message)
            if kind == ECHO_REPLY and ident == IDENT:
                self._take_reply(source, number)
            elif kind == ECHO_REQUEST and message.startswith(MAGIC, 8):
                self._take_request(source, message[8:])
            elif kind == UNREACHABLE:
                self._take_refusal(source, code, number, message[8:])

    def _take_reply(self, source: str, number: int) -> None:
        target, fills = self.open.get(number, ("", False))
        if source == target:
            del self.open[number]
            self.answered[target][fills] = time.monotonic() - self._sent[number]

    def _take_request(self, source: str, payload: bytes) -> None:
        sender = payload[len(MAGIC) : len(MAGIC) + 16].split(b" ")[0].decode("ascii", "replace")
        if sender != self.own:
            seen = self.heard.setdefault(sender, {"source": source, "full": False, "small": False})
            seen["full" if len(payload) > SMALL else "small"] = True
            if source != sender:
                seen["source"] = source

    def _take_refusal(self, by: str, code: int, mtu: int, quoted: bytes) -> None:
        """Somebody on the way says why it does not go on: the header that is quoted is that of our request."""
        if len(quoted) >= HEADERS and quoted[9] == socket.IPPROTO_ICMP:
            target = socket.inet_ntoa(quoted[16:20])
            if target in self.answered:
                self.told[target] = {"code": code, "by": by, "mtu": mtu}

    def probe_twins(self) -> None:
        """Ask who else has this container's address (an ARP probe, RFC 5227 2.1.1)."""
        if self.arp is not None:
            mac = self.arp.getsockname()[4]
            head = b"\xff" * 6 + mac + struct.pack("!H", ARP)
            probe = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ARP_REQUEST) + mac + bytes(4) + bytes(6)
            try:
                self.arp.send(head + probe + socket.inet_aton(self.own))
            except OSError:
                return  # its facts say that the link is down

    def take_twins(self) -> None:
        """MACs of others that say this container's address is theirs."""
        while self.arp is not None:
            try:
                frame = self.arp.recv(128)
            except (BlockingIOError, OSError):
                return
            operation, sender, address = frame[20:22], frame[22:28], frame[28:32]
            own = self.arp.getsockname()[4]
            if operation == ARP_REPLY and address == socket.inet_aton(self.own) and sender != own:
                self.twins.add(sender.hex(":"))

    def reverse_path_drops(self) -> int:
        """Packets that this namespace dropped meanwhile for their source; the process must be in it."""
        return read_reverse_path() - self._reverse_path

    def report(self) -> dict[str, Any]:
        answers = {
            target: {"reached": False in times, "full": True in times, "seconds": times.get(False, times.get(True))}
            for target, times in self.answered.items()
        }
        return {
            "answered": answers,
            "refused": self.refused,
            "told": self.told,
            "heard": self.heard,
            "twins": sorted(self.twins),
            "facts": self.facts,
        }


class Burst:
    """All askers of a host, and what passes its links meanwhile."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.settle, self.seconds = float(job["settle"]), float(job["seconds"])
        self.failures: dict[str, str] = {}
        self.askers: list[Asker] = []
        self._paths: dict[str, str] = {}
        if job.get("netns"):
            enter_netns(str(job["netns"]))
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.tap = Tap()
        self._reverse_path, self._overflows = read_reverse_path(), read_neighbour_overflows()
        for one in job["askers"]:
            self._add(one)
        enter_netns(f"/proc/self/fd/{home}")
        self._loop = select.epoll()
        self._takers: dict[int, Callable[[], None]] = {}
        self._register(self.tap.socket, self.tap.take)
        for asker in self.askers:
            self._register(asker.icmp, asker.take)
            self._register(asker.arp, asker.take_twins)

    def _add(self, one: dict[str, Any]) -> None:
        try:
            enter_netns(str(one["netns"]))
            self.askers.append(Asker(one))
            self._paths[str(one["hostname"])] = str(one["netns"])
        except CaasError as exc:
            self.failures[str(one["hostname"])] = f"it does not run: {exc.message}"
        except OSError as exc:
            self.failures[str(one["hostname"])] = f"no socket could be made in it: {exc.strerror}"

    def _register(self, opened: socket.socket | None, take: Callable[[], None]) -> None:
        if opened is not None:
            self._takers[opened.fileno()] = take
            self._loop.register(opened.fileno(), select.EPOLLIN)

    def run(self) -> dict[str, Any]:
        """Wait for the others, ask, ask again, and listen to the end, or until there is nothing left to come."""
        ask = time.monotonic() + self.settle
        end = ask + self.seconds
        self._listen_until(ask)
        for asker in self.askers:
            asker.probe_twins()
        probed = time.monotonic()
        while time.monotonic() < end and not all(asker.is_done for asker in self.askers):
            self._send_open()
            again = min(time.monotonic() + AGAIN, end)
            while time.monotonic() < again and not all(asker.is_done for asker in self.askers):
                self._take(again - time.monotonic())
        self._listen_until(probed + TWIN)
        return self._report()

    def _listen_until(self, end: float) -> None:
        while (left := end - time.monotonic()) > 0:
            self._take(left)

    def _send_open(self) -> None:
        """Every asker's first, then every asker's second, …: so that no container's queue takes all at once."""
        numbers = [(asker, sorted(asker.open)) for asker in self.askers]
        longest = max((len(open_) for _, open_ in numbers), default=0)
        sent = 0
        for place in range(longest):
            for asker, open_ in numbers:
                if place < len(open_) and open_[place] in asker.open:
                    asker.send(open_[place])
                    sent += 1
                    if sent % AT_ONCE == 0:
                        self._take(0.0)

    def _take(self, patience: float) -> None:
        for descriptor, event in self._loop.poll(patience):
            if event & select.EPOLLIN:
                self._takers[descriptor]()
            else:  # an interface that goes down leaves an error on its packet socket: one read takes it
                self._clear(descriptor)

    def _clear(self, descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            twin.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Close all at once: for each packet socket the kernel waits until no CPU looks at it any more, some 15 ms."""
        opened = [self.tap.socket, *(asker.arp for asker in self.askers if asker.arp is not None)]
        with ThreadPoolExecutor(len(opened)) as pool:
            for each in opened:
                pool.submit(each.close)

    def _report(self) -> dict[str, Any]:
        host_drops = read_reverse_path() - self._reverse_path
        overflows = read_neighbour_overflows() - self._overflows
        reports = {}
        for asker in self.askers:
            reports[asker.hostname] = asker.report()
            try:
                enter_netns(self._paths[asker.hostname])
                reports[asker.hostname]["reverse_path"] = asker.reverse_path_drops()
            except CaasError:
                self.failures[asker.hostname] = "it stopped meanwhile"
        counts = {"reverse_path": host_drops, "neighbour_overflows": overflows}
        return {"reports": reports, "failures": self.failures, **counts, **self.tap.report()}


def main() -> None:
    burst = Burst(json.load(sys.stdin))
    sys.stdout.write(json.dumps(burst.run()))
    sys.stdout.flush()
    burst.close()


if __name__ == "__main__":
    main()
