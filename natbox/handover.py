"""Beginning and ceasing to be the one of two NATBoxes that works, in the order that lets no packet meet the wrong one.

The coordinator decides and gives each order a higher epoch. What is ordered is saved before it is done: a crash
half-way leaves a NATBox that is closed when it starts again, never one that is open unasked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Protocol

from agent.kernel.natbox_gate import Gate
from natbox.standing import Role, SavedStanding, Standing
from proto.errors import CaasError, Code
from proto.model import Connection

log = logging.getLogger(__name__)
#: How often tick() is to be called, and after which of its calls what was said is said again.
TICK_SECONDS = 0.2
GATEWAYS_AGAIN = (2, 5)
SHARED_EVERY = 5
#: When a standby ends what it handed out; more than once, for who still sends to it by its MAC begins connections anew.
FORGET_AFTER = (1, 5, 15)
ASK_SECONDS = 0.5


class Machine(Protocol):
    """agent.kernel.natbox_handover.HandOverDoor is the real one."""

    def unfit(self) -> Sequence[str]: ...
    def gate(self) -> Gate | None: ...
    def shut(self, epoch: int) -> None: ...
    def open(self, epoch: int) -> None: ...
    def check_shared(self, addresses: Sequence[IPv4Interface]) -> None: ...
    def take_shared(self, addresses: Sequence[IPv4Interface]) -> None: ...
    def give_up_shared(self) -> Sequence[IPv4Interface]: ...
    def connections(self) -> list[Connection]: ...
    def enter(self, connections: Sequence[Connection]) -> Counter[str]: ...
    def end(self, connections: Sequence[Connection]) -> None: ...
    def claim(self, epoch: int) -> None: ...
    def announce_gateways(self) -> None: ...
    def announce_shared(self, addresses: Sequence[IPv4Interface]) -> None: ...
    def ask(self, shared: Sequence[IPv4Interface], *, seconds: float) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class TakenOver:
    """How many connections were made anew, how many the kernel refused, and the seconds from the order to the end."""

    connections: int
    refused: int
    seconds: float


class HandOver:
    """The standing of one NATBox. Blocking; safe for several threads. *on_open* is called when it has begun to work."""

    def __init__(self, machine: Machine, saved: SavedStanding, *, on_open: Callable[[], None] = lambda: None) -> None:
        self._machine = machine
        self._saved = saved
        self._on_open = on_open
        self._lock = threading.Lock()
        self._standing = saved.load()
        self._ticks = max(GATEWAYS_AGAIN)

    @property
    def standing(self) -> Standing:
        return self._standing

    def unfit(self) -> Sequence[str]:
        """Why no packet could pass through this machine."""
        return self._machine.unfit()

    def resume(self) -> None:
        """At a start, before the tables: go on where the kernel still is as it was left, else be closed."""
        with self._lock:
            standing, gate = self._standing, self._machine.gate()
            if standing.role is Role.ALONE:
                return
            if standing.role is Role.ACTIVE and gate == Gate(epoch=standing.epoch, is_open=True):
                self._machine.open(standing.epoch)
                return
            if standing.role is Role.ACTIVE:
                log.warning("was the active NATBox at epoch %d; closed until it is told again", standing.epoch)
            self._close(max(standing.epoch, gate.heard if gate else 0))

    def step_down(self, epoch: int) -> list[Connection]:
        """Cease to work; returns the connections, which tick() then ends here. STALE where *epoch* is not higher."""
        with self._lock:
            self._standing.check_order(epoch)
            worked = self._standing.role is not Role.STANDBY
            self._save(Standing(role=Role.STANDBY, epoch=epoch))
            self._machine.shut(epoch)
            # Before the addresses go: the kernel ends what was masqueraded to an address with it.
            connections = self._machine.connections() if worked else []
            self._machine.give_up_shared()
            self._ticks = 0
            log.info("standby since epoch %d; %d connections handed out", epoch, len(connections))
            return connections

    def take_over(
        self,
        epoch: int,
        shared: Sequence[IPv4Interface],
        connections: Sequence[Connection],
        *,
        unless_alive: bool = False,
    ) -> TakenOver:
        """Work from now on, with *connections*. STALE where *epoch* is not higher.

        CONFLICT where an address cannot be taken, or (*unless_alive*) where another one answers on both links. After
        another failure it is closed.
        """
        began = time.monotonic()
        with self._lock:
            self._standing.check_order(epoch)
            self._machine.check_shared(shared)
            if unless_alive:
                self._check_nobody_else(shared)
            refused: Counter[str] = Counter()
            if self._standing.role is Role.STANDBY:
                self._machine.end(self._machine.connections())  # of an earlier time: nobody has them any more
                refused = self._machine.enter(connections)
            for words, count in refused.items():
                log.warning("%d of %d connections were not taken over: %s", count, len(connections), words)
            self._save(Standing(role=Role.ACTIVE, epoch=epoch, shared=tuple(shared)))
            try:
                self._machine.take_shared(shared)
                self._machine.open(epoch)
            except BaseException:
                self._close(epoch)
                raise
            self._announce()
            seconds = time.monotonic() - began
        lost = refused.total()
        log.info("active since epoch %d; %d connections, after %.2f s", epoch, len(connections) - lost, seconds)
        try:
            self._on_open()
        except CaasError as exc:
            log.error("it works, and what follows failed: %s (%s)", exc, exc.hint)
        return TakenOver(len(connections) - lost, lost, seconds)

    def tick(self) -> None:
        """Say that it works; where the kernel has heard of one with a higher epoch, cease. A standby forgets."""
        with self._lock:
            if self._standing.role is not Role.ACTIVE:
                self._ticks += 1
                if self._ticks in FORGET_AFTER:
                    self._machine.end(self._machine.connections())
                return
            gate = self._machine.gate()
            if gate is not None and not gate.is_open:
                log.warning("another NATBox works at epoch %d: this one is closed", gate.heard)
                self._close(max(gate.heard, self._standing.epoch))
                return
            self._ticks += 1
            self._machine.claim(self._standing.epoch)
            if self._ticks in GATEWAYS_AGAIN:
                self._machine.announce_gateways()
            if self._ticks in GATEWAYS_AGAIN or self._ticks % SHARED_EVERY == 0:
                self._machine.announce_shared(self._standing.shared)

    def _announce(self) -> None:
        self._ticks = 0
        self._machine.claim(self._standing.epoch)
        self._machine.announce_gateways()
        self._machine.announce_shared(self._standing.shared)

    def _check_nobody_else(self, shared: Sequence[IPv4Interface]) -> None:
        on_trunk, on_uplink = self._machine.ask(shared, seconds=ASK_SECONDS)
        if on_trunk and on_uplink:
            raise CaasError(
                Code.CONFLICT,
                f"another NATBox works: the trunk is answered by {on_trunk}, the uplink by {on_uplink}",
                hint="packets pass through it, though its daemon may not answer: start that again",
            )

    def _close(self, epoch: int) -> None:
        self._save(Standing(role=Role.STANDBY, epoch=epoch))
        self._machine.shut(epoch)
        self._machine.give_up_shared()

    def _save(self, standing: Standing) -> None:
        self._saved.save(standing)
        self._standing = standing
