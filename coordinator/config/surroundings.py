"""What a deployment file leaves to where it is read: images for its distributions, which host `localhost` is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

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
