"""The machine of one of two NATBoxes, without a kernel. Two of them on one Segment hear each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface

from agent.kernel.natbox_gate import Gate
from proto.errors import CaasError, Code
from proto.model import Connection


@dataclass
class Segment:
    """Trunk and uplink, and who is on them."""

    machines: list[FakeMachine] = field(default_factory=list)


class FakeMachine:
    """What a kernel would keep. `fail(call)` makes the next such call fail; `calls` are those that change something."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        segment.machines.append(self)
        self.kernel_gate: Gate | None = Gate()
        self.addresses: list[IPv4Interface] = []
        self.entries: list[Connection] = []
        self.refuses = 0
        self.calls: list[str] = []
        self.armed: set[str] = set()
        self.connected = True

    def fail(self, call: str) -> None:
        self.armed.add(call)

    def reboot(self) -> None:
        """What is in the kernel is gone."""
        self.kernel_gate, self.addresses, self.entries = None, [], []

    @property
    def works(self) -> bool:
        """Whether a packet would pass."""
        return bool(self.addresses) and self.kernel_gate is not None and self.kernel_gate.is_open

    def _write(self, call: str) -> None:
        self.calls.append(call)
        if call in self.armed:
            self.armed.discard(call)
            raise CaasError(Code.FAILED, f"simulated: {call}")

    def unfit(self) -> Sequence[str]:
        return () if self.connected else ("link eth1 is down",)

    def gate(self) -> Gate | None:
        return self.kernel_gate

    def shut(self, epoch: int) -> None:
        self._write("shut")
        self.kernel_gate = Gate(epoch=epoch, is_open=False)

    def open(self, epoch: int) -> None:
        self._write("open")
        self.kernel_gate = Gate(epoch=epoch, is_open=True)

    def check_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        if "check" in self.armed:
            raise CaasError(Code.CONFLICT, "simulated: check")

    def take_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        self._write("take")
        self.addresses = list(addresses)

    def give_up_shared(self) -> Sequence[IPv4Interface]:
        self._write("give up")
        gone, self.addresses = self.addresses, []
        return gone

    def connections(self) -> list[Connection]:
        return list(self.entries)

    def enter(self, connections: Sequence[Connection]) -> Counter[str]:
        self._write("enter")
        self.entries += connections[self.refuses :]
        return Counter({"File exists": self.refuses} if self.refuses else {})

    def end(self, connections: Sequence[Connection]) -> None:
        self.entries = [each for each in self.entries if each not in connections]

    def claim(self, epoch: int) -> None:
        self.calls.append("claim")
        for other in self.segment.machines:
            gate = other.kernel_gate
            if other is not self and self.connected and other.connected and gate and 0 < gate.epoch < epoch:
                other.kernel_gate = Gate(epoch=gate.epoch, is_open=False, heard=epoch)

    def announce_gateways(self) -> None:
        self.calls.append("announce gateways")

    def announce_shared(self, addresses: Sequence[IPv4Interface]) -> None:
        self.calls.append("announce shared")

    def ask(self, shared: Sequence[IPv4Interface], *, seconds: float) -> tuple[str, str]:
        others = [one for one in self.segment.machines if one is not self and one.connected]
        trunk = any(one.kernel_gate and one.kernel_gate.epoch and one.kernel_gate.is_open for one in others)
        return "a NATBox" if trunk else "", "203.0.113.1" if any(one.addresses for one in others) else ""
