"""Counting the calls that change the kernel: "an unchanged file performs no write" is tested with it."""

from __future__ import annotations

import threading


class Tally:
    """How many changing netlink, nft, tc, BPF and sysctl calls were made. Safe for several threads."""

    def __init__(self) -> None:
        self.writes = 0
        self._lock = threading.Lock()

    def add(self, count: int = 1) -> None:
        with self._lock:
            self.writes += count
