"""What a burst sends, and what it reads in /proc."""

from __future__ import annotations

import struct

import pytest

from agent.kernel.burst_program import HEADERS, MAGIC, Requests
from agent.kernel.link_facts import read_routes

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102090A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0002090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t0003090A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def plain_sum(data: bytes) -> int:
    """RFC 1071, the long way."""
    total = sum(data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("size", [32, 33, 1480 - HEADERS, 1500 - HEADERS])
@pytest.mark.parametrize("number", [0, 1, 126, 127, 4095, 65535])
def test_every_request_has_its_checksum_its_size_and_its_senders_address(size: int, number: int) -> None:
    request = Requests("10.9.1.2", size).make(number)
    assert plain_sum(request) == 0xFFFF
    assert len(request) == 8 + size
    assert struct.unpack_from("!H", request, 6) == (number,)
    assert request[8:].startswith(MAGIC + b"10.9.1.2 ")


def test_routes_are_those_that_lead_somewhere() -> None:
    assert read_routes(ROUTES) == ["0.0.0.0/0", "10.9.2.0/24"]
