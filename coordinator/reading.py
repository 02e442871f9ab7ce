"""Cluster files as a coordinator reads them: with what its site says, and names looked up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from coordinator.config import ClusterFile, Settings, Surroundings, load_bytes, parse_distributions
from proto import coordinator_pb2 as pb

LOOK_UP = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A file that was read, and all that it takes to read it again to the same end."""

    file: ClusterFile
    content: bytes
    file_name: str
    surroundings: Surroundings

    @property
    def surroundings_json(self) -> str:
        """As the journal keeps them."""
        return json.dumps(self.surroundings.to_dict(), sort_keys=True)


async def read_request(settings: Settings, request: pb.FileRequest) -> Reading:
    """The file of *request*. ConfigError lists every mistake. Names of hosts that no agent has are looked up."""
    words = (f"{name}={image}" for name, image in request.distributions.items())
    surroundings = settings.surroundings(parse_distributions(words))
    file = _load(request, surroundings)
    unknown = [host.name for host in file.hosts.values() if host.address is None and host.name != "localhost"]
    if found := await _look_up(unknown):
        surroundings = replace(surroundings, addresses={**surroundings.addresses, **found})
        file = _load(request, surroundings)
    return Reading(file=file, content=request.content, file_name=request.file_name, surroundings=surroundings)


def _load(request: pb.FileRequest, surroundings: Surroundings) -> ClusterFile:
    return load_bytes(request.content, file=request.file_name, name=request.name, surroundings=surroundings)


async def _look_up(names: Iterable[str]) -> dict[str, IPv4Address]:
    """The first IPv4 address of each of *names* that has one (getaddrinfo(3))."""
    loop = asyncio.get_running_loop()

    async def look(name: str) -> IPv4Address | None:
        try:
            async with asyncio.timeout(LOOK_UP):
                found = await loop.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError):
            return None
        return IPv4Address(found[0][4][0])

    wanted = list(dict.fromkeys(names))
    addresses = await asyncio.gather(*map(look, wanted))
    return {name: address for name, address in zip(wanted, addresses, strict=True) if address}
