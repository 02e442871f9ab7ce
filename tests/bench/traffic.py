"""Traffic between namespaces by traffic.c, and how much of it arrived."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.netns import run
from tests.support.wire import inside

SOURCE = Path(__file__).with_name("traffic.c")
PORT = 5001
#: Where raw frames go (traffic.c).
DISCARD_PORT = 9
#: Seconds of one run: short, for there are many, and every other one is the peer's.
STREAM, PACKETS = 0.6, 0.4
PATIENCE = 30
#: Of runs; the environment's BENCH_PAIRS, where it is set.
PAIRS = 11


class Traffic:
    """The program in *folder*, compiled where it is not there. One flow at a time."""

    def __init__(self, folder: Path) -> None:
        self._program = str(folder / "traffic")
        if not Path(self._program).exists():
            subprocess.run(["clang", "-O2", "-o", self._program, str(SOURCE)], check=True)

    def stream(self, sender: str, receiver: str, address: str) -> float:
        """Gb/s of one TCP connection from namespace *sender* to *address* of *receiver*, as the receiver reads it."""
        taker = self._start(receiver, "take", PORT)
        try:
            assert taker.stdout is not None
            if taker.stdout.readline() != "ready\n":
                raise AssertionError(f"traffic take in {receiver}: it did not start")
            self._run(sender, "stream", address, PORT, STREAM)
            said, _ = taker.communicate(timeout=PATIENCE)
        finally:
            taker.kill()
            taker.communicate()
        total, seconds = map(float, said.split())
        return total * 8 / seconds / 1e9

    def datagrams(self, sender: str, address: str, receiver: str, link: str) -> float:
        """Packets per second from *sender* to *address* that arrive at *link* of *receiver*, 60-byte frames."""
        return _arrivals(receiver, link, lambda: self._run(sender, "datagrams", address, PORT, PACKETS))

    def frames(
        self, sender: str, link: str, mac: str, vid: int, source: str, address: str, *, receiver: str, at: str
    ) -> float:
        """The same from a raw socket on *link*, tagged *vid* (0: untagged); arrivals are those at *at*."""
        words = (link, mac, vid, source, address, PACKETS)
        return _arrivals(receiver, at, lambda: self._run(sender, "frames", *words))

    def _run(self, netns: str, *words: object) -> str:
        done = subprocess.run(
            _argv(netns, self._program, words), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            raise AssertionError(f"traffic {' '.join(map(str, words))} in {netns}: {done.stderr.strip()}")
        return done.stdout

    def _start(self, netns: str, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(_argv(netns, self._program, words), stdout=subprocess.PIPE, text=True)


def drop_arrivals(netns: str, link: str) -> None:
    """Count what arrives and take it no further: the receiver's own work is not what is measured. ARP goes on."""
    chain = f"type filter hook ingress device {link} priority 0; udp dport {{ {DISCARD_PORT}, {PORT} }} drop;"
    load_rules(netns, f"table netdev bench {{\nchain arrivals {{ {chain} }}\n}}")


def load_rules(netns: str, rules: str) -> None:
    """Have nft take *rules*."""
    run(f"nft -f - <<'END'\n{rules}\nEND", netns=netns)


def alternate(one: Callable[[], float], other: Callable[[], float]) -> list[tuple[float, float]]:
    """PAIRS pairs (one, other), measured one right after the other, each second pair in the other order."""
    one(), other()  # what is learnt once (neighbours, connections, ports of a switch) is learnt now
    pairs = []
    for number in range(int(os.environ.get("BENCH_PAIRS", PAIRS))):
        if number % 2:
            second, first = other(), one()
        else:
            first, second = one(), other()
        pairs.append((first, second))
    return pairs


def _arrivals(netns: str, link: str, send: Callable[[], str]) -> float:
    before = _received(netns, link)
    sent, seconds = map(float, send().split())
    arrived = _received(netns, link) - before
    if not arrived <= sent * 1.01 + 10:
        raise AssertionError(f"{link} of {netns}: {arrived} packets arrived and {sent:.0f} were sent")
    return arrived / seconds


def _received(netns: str, link: str) -> int:
    def read() -> int:
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == link:
                return int(numbers.split()[1])
        raise AssertionError(f"{netns} has no link {link}")

    return inside(netns, read)


def _argv(netns: str, program: str, words: tuple[object, ...]) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{netns}", program, *map(str, words)]
