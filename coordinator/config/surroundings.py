"""What a deployment file leaves to where it is read: images for its distributions, which host `localhost` is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from coordinator.config.cluster import Host
from proto.errors import invalid

#: What images are made of.
DISTRIBUTIONS = ("debian:bookworm",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything may be left out; a file that needs more than there is says so.

    `distributions`: a file's distribution ("ubuntu", or "ubuntu:raring" for one release) -> one of DISTRIBUTIONS.
    `localhost`: the coordinator's own host. `addresses`: host names that were looked up. `agents`: the names of all
    hosts with an agent, by underlay address; None where no coordinator was asked.
    """

    distributions: Mapping[str, str] = field(default_factory=dict)
    localhost: Host | None = None
    addresses: Mapping[str, IPv4Address] = field(default_factory=dict)
    agents: Mapping[IPv4Address, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it: a file is read later as it was when its cluster was brought up."""
        own = self.localhost
        return {
            "distributions": dict(self.distributions),
            "localhost": {"name": own.name, "address": str(own.address)} if own else None,
            "addresses": {name: str(address) for name, address in self.addresses.items()},
            "agents": {str(address): name for address, name in self.agents.items()}
            if self.agents is not None
            else None,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Surroundings:
        """The inverse of to_dict; what is missing is as if it had been left out."""
        own, agents = found.get("localhost"), found.get("agents")
        return cls(
            distributions=found.get("distributions") or {},
            localhost=Host(name=own["name"], address=IPv4Address(own["address"])) if own else None,
            addresses={name: IPv4Address(text) for name, text in (found.get("addresses") or {}).items()},
            agents={IPv4Address(text): name for text, name in agents.items()} if agents is not None else None,
        )


def parse_distributions(words: Iterable[str]) -> dict[str, str]:
    """Words as ubuntu=debian:bookworm. INVALID where one is something else."""
    found: dict[str, str] = {}
    for word in words:
        ours, separator, image = word.partition("=")
        if not separator or not ours:
            raise invalid(f"distribution {word!r}: NAME=IMAGE is needed", hint="as ubuntu=debian:bookworm")
        if image not in DISTRIBUTIONS:
            raise invalid(f"distribution {word!r}: no image is made of {image!r}", hint=f"use {DISTRIBUTIONS[0]}")
        if found.setdefault(ours.lower(), image) != image:
            raise invalid(f"distribution {ours}: given twice")
    return found
