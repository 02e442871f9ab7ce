"""What keeps packets from passing: the words for causes, and what one host finds about itself."""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass


class Cause(enum.Enum):
    """Why one container does not reach another as it should. The value is the word for people and programs."""

    NO_ROUTE = "no route"
    PROTOCOL_4 = "protocol 4 dropped"
    TUNNEL = "tunnel"
    FORWARD = "FORWARD policy"
    REVERSE_PATH = "reverse path"
    MTU = "MTU hole"
    WRONG_VLAN = "wrong VLAN"
    AGENT_DOWN = "peer's agent down"
    LINK_DOWN = "link down"
    NOT_RUNNING = "not running"
    WRONG_SOURCE = "wrong source"
    DUPLICATE = "duplicate address"
    FILTERED = "filtered"
    NEIGHBOURS = "neighbour table full"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something on a host that can be the cause of pairs that fail. *object* is what it is about, *text* says it.

    It concerns packets between the host's containers *near* (none: all of them) and addresses in *far* (none: any);
    with `crossing`, only those that leave the host or come in. `sure`: nothing passes there; else it depends on rules
    that nobody here understands.
    """

    cause: Cause
    object: str
    text: str
    hint: str = ""
    near: tuple[str, ...] = ()
    far: tuple[ipaddress.IPv4Network, ...] = ()
    crossing: bool = True
    sure: bool = True
