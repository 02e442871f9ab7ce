"""Where somebody on this machine listens, of TCP and UDP (proc(5), net/tcp and net/udp)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import run_inside
from agent.kernel.taken_ports import read_address

#: Of the network namespace of the thread that looks.
_FOLDER = Path("/proc/thread-self/net")
#: net/tcp_states.h, in hexadecimal: TCP_LISTEN; a UDP socket that is connected to nobody is TCP_CLOSE.
_LISTENS = {"tcp": "0A", "udp": "07"}
Socket = tuple[str, IPv4Address, int]


def list_listening(*, netns: str | None) -> list[Socket]:
    """Protocol, address (0.0.0.0 is all) and port of each socket in *netns* that IPv4 packets reach."""

    def read() -> list[tuple[str, str]]:
        names = ((protocol, _FOLDER / f"{protocol}{version}") for protocol in _LISTENS for version in ("", "6"))
        return [(protocol, path.read_text()) for protocol, path in names if path.exists()]

    with kernel_errors("list listening sockets"):
        texts = run_inside(netns, read)
    return [socket for protocol, text in texts for socket in read_sockets(protocol, text)]


def read_sockets(protocol: str, text: str) -> Iterator[Socket]:
    """What /proc/net/tcp, tcp6, udp or udp6 has of those that listen."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].rpartition(":")
        ip = read_address(address)
        if fields[3] == _LISTENS[protocol] and ip is not None:
            yield protocol, ip, int(port, 16)
