"""Traffic of real stacks through namespaces, counted: an echo server, a steady sender, a bulk transfer."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.wire import inside


@contextmanager
def echo(netns: str, port: int) -> Iterator[set[tuple[str, int]]]:
    """A UDP server in *netns* that sends everything back; who has asked it."""
    peers: set[tuple[str, int]] = set()

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        opened.bind(("", port))
        opened.settimeout(0.1)
        return opened

    server = inside(netns, open_socket)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                data, peer = server.recvfrom(2048)
                peers.add(peer)
                server.sendto(data, peer)
            except TimeoutError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield peers
    finally:
        ended.set()
        thread.join()
        server.close()


class Sender:
    """One UDP flow that sends numbered packets every *gap* seconds and counts which came back."""

    def __init__(self, netns: str, peer: tuple[str, int], *, gap: float = 0.002) -> None:
        def open_socket() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            opened.connect(peer)
            opened.settimeout(0.1)
            return opened

        self._socket = inside(netns, open_socket)
        self._gap, self._patience = gap, 0.0
        self._ended = threading.Event()
        self.sent = 0
        self.heard: set[int] = set()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._listen)]

    def __enter__(self) -> Sender:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()
        self._socket.close()

    def finish(self, *, patience: float = 2.0) -> int:
        """Stop sending, wait for the last answers (at most *patience* seconds): how many were lost."""
        self._patience = patience
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        return self.sent - len(self.heard)

    def _send(self) -> None:
        while not self._ended.is_set():
            self._socket.send(struct.pack("!Q", self.sent))
            self.sent += 1
            time.sleep(self._gap)

    def _listen(self) -> None:
        deadline = None
        while deadline is None or (len(self.heard) < self.sent and time.monotonic() < deadline):
            with suppress(TimeoutError):
                self.heard.add(struct.unpack("!Q", self._socket.recv(2048))[0])
            if deadline is None and self._ended.is_set():
                deadline = time.monotonic() + self._patience


def transfer(sender: str, receiver: str, address: str, *, listener: str, size: int) -> float:
    """*size* random bytes over TCP from *sender* to *receiver* (namespaces); the seconds it took.

    *listener* is the one of the two that the other connects to, at *address*. AssertionError where a byte differs.
    """
    connector = sender if listener == receiver else receiver
    server = inside(listener, lambda: socket.create_server(("", 0)))
    port = server.getsockname()[1]
    accepted: list[socket.socket] = []
    thread = threading.Thread(target=lambda: accepted.append(server.accept()[0]))
    thread.start()
    client = inside(connector, lambda: socket.create_connection((address, port), timeout=10))
    thread.join(10)
    out, into = (client, accepted[0]) if connector == sender else (accepted[0], client)
    block = os.urandom(1 << 20)
    want, have = hashlib.sha256(), hashlib.sha256()
    began = time.monotonic()

    def send() -> None:
        for _ in range(size >> 20):
            want.update(block)
            out.sendall(block)
        out.shutdown(socket.SHUT_WR)

    pusher = threading.Thread(target=send)
    pusher.start()
    into.settimeout(30)
    while data := into.recv(1 << 18):
        have.update(data)
    pusher.join()
    took = time.monotonic() - began
    for each in (client, accepted[0], server):
        each.close()
    assert have.digest() == want.digest(), "what arrived is not what was sent"
    return took
