"""A connection as NATBox's kernel tracks it, and as it travels from one NATBox to another."""

from __future__ import annotations

from typing import NamedTuple


class Flow(NamedTuple):
    """One direction as its packets begin: IPv4 addresses as numbers, and ports.

    Of ICMP `source_port` is the identifier, `destination_port` type << 8 | code.
    """

    source: int
    destination: int
    source_port: int
    destination_port: int


class TcpProgress(NamedTuple):
    """TCP's part: state 1..9, then (original, reply) window scales and flags (linux/netfilter/nf_conntrack_tcp.h)."""

    state: int
    scales: tuple[int, int]
    flags: tuple[int, int]


class Connection(NamedTuple):
    """`original` is what began it, `reply` what answers look like. `status` is IPS_* of nf_conntrack_common.h.

    `timeout`: seconds left. A tuple and not a dataclass: there may be hundreds of thousands.
    """

    protocol: int
    original: Flow
    reply: Flow
    status: int
    timeout: int
    mark: int
    tcp: TcpProgress | None = None
