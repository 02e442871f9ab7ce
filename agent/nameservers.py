"""The name servers that this host asks, for containers that need some (resolv.conf(5))."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

#: systemd-resolved writes the servers behind its own 127.0.0.53 to the first (systemd-resolved.service(8)).
FILES = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
#: MAXNS of resolv.h: the resolver takes no more.
MAX = 3


def read_nameservers(files: tuple[Path, ...] = FILES) -> tuple[str, ...]:
    """IPv4 addresses, at most three, from the first of *files* that can be read. None that only this host reaches."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return parse_nameservers(text)
    return ()


def parse_nameservers(text: str) -> tuple[str, ...]:
    """The usable `nameserver` lines of *text*."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] != ["nameserver"] or len(words) < 2:
            continue
        try:
            address = IPv4Address(words[1])
        except AddressValueError:
            continue
        if not address.is_loopback and not address.is_unspecified:
            found.setdefault(str(address))
    return tuple(found)[:MAX]
