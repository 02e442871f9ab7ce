"""TCP connections that send all the time, both ways, and know at the end whether every byte came as it was sent."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.wire import inside


@contextmanager
def echo_server(netns: str, port: int) -> Iterator[set[tuple[str, int]]]:
    """Sends back what each connection sends; whose connections there were (address and port, as they are there)."""
    server = inside(netns, lambda: socket.create_server(("", port), backlog=64))
    peers: set[tuple[str, int]] = set()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, peer = server.accept()
            except OSError:
                return
            peers.add(peer)
            thread = threading.Thread(target=serve, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield peers
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        accepting.join(5)


class Stream:
    """One connection from *netns* to *peer*, an echo_server: blocks of random bytes, one every *gap* seconds."""

    def __init__(self, netns: str, peer: tuple[str, int], *, gap: float = 0.005, seed: int = 0) -> None:
        self._socket = inside(netns, lambda: socket.create_connection(peer, timeout=10))
        self._socket.settimeout(20)
        self._gap, self._random = gap, random.Random(seed)
        self._sent, self._heard = hashlib.sha256(), hashlib.sha256()
        self.sent = self.heard = 0
        self.failure = ""
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._listen)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop sending and hear the rest. AssertionError where it failed, or a byte is not as it was sent."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        assert not self.failure, f"after {self.sent} bytes sent and {self.heard} heard: {self.failure}"
        assert (self.heard, self._heard.digest()) == (self.sent, self._sent.digest())

    def _send(self) -> None:
        try:
            while not self._ended.is_set():
                block = self._random.randbytes(self._random.randint(1, 1400))
                self._socket.sendall(block)
                self._sent.update(block)
                self.sent += len(block)
                time.sleep(self._gap)
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self.failure = self.failure or f"sending: {exc}"

    def _listen(self) -> None:
        try:
            while data := self._socket.recv(1 << 16):
                self._heard.update(data)
                self.heard += len(data)
        except OSError as exc:
            self.failure = self.failure or f"listening: {exc}"
