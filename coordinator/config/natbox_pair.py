"""`natbox` in the configuration file: two NATBoxes, one of which works at a time (docs/adr/0012).

natbox:
  addresses: [192.168.2.24, 192.168.2.23]    # where the two daemons answer; cluster files name either
  shared: [203.0.113.1/24]                   # on the uplink of the one that works
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from coordinator.config.fields import Fields, dotted
from coordinator.config.problem import Report

KEY = "natbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBoxPair:
    """The management addresses of the two, and the addresses on the uplink that go with the one that works."""

    addresses: tuple[IPv4Address, IPv4Address]
    shared: tuple[IPv4Interface, ...]

    def has(self, address: str) -> bool:
        """Whether *address* is one of the two's."""
        return address in map(str, self.addresses)


def read_pair(top: Fields, report: Report) -> NatBoxPair | None:
    """The pair in *top*; None where there is none, or what is there is wrong and was reported."""
    node = top.node(KEY)
    if node is None:
        return None
    fields = Fields(node, KEY, report, place=top.where(KEY), required=("addresses", "shared"))
    addresses = _addresses(fields)
    shared = _shared(fields, report)
    if not addresses or not shared:
        return None
    if found := next((one for one in shared if one.ip in addresses), None):
        fields.wrong("shared", f"{found.ip} is where a daemon answers", hint="it would go away with the packets")
        return None
    return NatBoxPair(addresses=addresses, shared=shared)


def _addresses(fields: Fields) -> tuple[IPv4Address, IPv4Address] | None:
    words = fields.words("addresses")
    found = [address for word in words if (address := fields.as_address("addresses", word)) is not None]
    if not words or len(found) != len(words):
        return None
    if len(set(found)) != 2 or len(found) != 2:
        listed = ", ".join(map(str, found))
        fields.wrong("addresses", f"{listed}: two different ones are needed", hint="one for each NATBox's daemon")
        return None
    return found[0], found[1]


def _shared(fields: Fields, report: Report) -> tuple[IPv4Interface, ...]:
    found = []
    for word in fields.words("shared"):
        try:
            if "/" not in word.text:
                raise ValueError("the prefix length is missing")
            interface = IPv4Interface(word.text)
        except ValueError as exc:
            message = f"{word.text!r} is no address of a link: {exc}"
            report.add(word.place, dotted(fields.path, "shared"), message, hint="as in 203.0.113.1/24")
            continue
        found.append(interface)
    return tuple(found)
