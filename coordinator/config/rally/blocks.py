"""The routed networks of a deployment file: which block each host has, and what containers are called by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from coordinator.config.check_routed import make_blocks
from coordinator.config.cluster import RoutedNetwork
from coordinator.config.document import PREFIX_MAX, PREFIX_MIN, why_unusable
from coordinator.config.rally.notes import Notes
from coordinator.config.rally.read import Part

#: What lxc-net gives its bridge where nobody says otherwise (lxc, config/init/common/lxc-net).
DEFAULT_START = IPv4Network("10.0.3.0/24")


@dataclass(slots=True)
class _Group:
    """The parts whose networks begin at the same place: one network of ours."""

    start: IPv4Network
    blocks: dict[str, IPv4Network] = field(default_factory=dict)
    tunnel_to: list[IPv4Address] = field(default_factory=list)
    #: Blocks of 10.0.3.0/24's kind that were given to hosts as they came.
    given: int = 0

    def next(self) -> IPv4Network:
        """The first block that no host has. ValueError where the addresses end."""
        held = set(self.blocks.values())
        while True:
            number = int(self.start.network_address) + self.given * self.start.num_addresses
            if number >= 2**32:
                raise ValueError(f"no block is left after {self.start}")
            self.given += 1
            if (block := IPv4Network((number, self.start.prefixlen))) not in held:
                return block


class Blocks:
    """Gives each host of each part its block."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._groups: dict[IPv4Network, _Group] = {}

    def take(self, part: Part, hosts: Sequence[str], peers: Sequence[IPv4Address]) -> str:
        """The name of the network that *part* has on *hosts*. Mistakes are in the part's notes; "" after those.

        With start_lxc_network, the k-th host has the k-th block of its size. Without, hosts get blocks from LXC's own
        10.0.3.0/24 up as they are named first.
        """
        start = part.lxc.start if part.lxc and part.lxc.start else None
        group = self._groups.setdefault(start or DEFAULT_START, _Group(start or DEFAULT_START))
        try:
            if start is not None:
                if not self._take_explicit(group, part, hosts):
                    return ""
            else:
                for host in hosts:
                    if host not in group.blocks:
                        group.blocks[host] = group.next()
        except ValueError as exc:
            self._notes.wrong(part.place, part.path, str(exc), hint="begin lower, or make the blocks smaller")
            return ""
        group.tunnel_to += [peer for peer in peers if peer not in group.tunnel_to]
        return _name(group.start)

    def _take_explicit(self, group: _Group, part: Part, hosts: Sequence[str]) -> bool:
        assert part.lxc is not None
        keys = part.lxc.keys
        holders = {block: host for host, block in group.blocks.items()}
        for host, block in make_blocks(group.start, hosts).items():
            if why := why_unusable(block):
                hint = f"a private one of /{PREFIX_MIN} to /{PREFIX_MAX}, as 10.100.1.0/24"
                keys.wrong("start_lxc_network", f"{block}, the block of {host}, {why}", hint=hint)
                return False
            other = holders.get(block, host)
            mine = group.blocks.get(host, block)
            if other != host or mine != block:
                what = f"{block} is {other}'s already" if other != host else f"{host} has {mine} already"
                message = f"{what}: an earlier part begins at {group.start} too, with its hosts in another order"
                keys.wrong(
                    "start_lxc_network", message, hint="begin elsewhere, or list the same hosts in the same order"
                )
                return False
            group.blocks[host] = block
        room = group.start.num_addresses - 3
        if part.lxc.per_host > room:
            message = f"{group.start} has room for {room} containers, and {part.lxc.per_host} are wanted on each host"
            keys.wrong("start_lxc_network", message, hint=f"write {_fitting(group.start, part.lxc.per_host)}")
            return False
        return True

    def block(self, network: str, host: str) -> IPv4Network:
        """The block of *host* in the network called *network*."""
        return next(group for group in self._groups.values() if _name(group.start) == network).blocks[host]

    def dashed(self, part: Part, network: str, host: str) -> str:
        """What stands for the block in containers' names: its dashed address, or 0 for LXC's own first one."""
        block = self.block(network, host)
        if part.lxc and part.lxc.start is None and block == DEFAULT_START:
            return "0"
        return str(block.network_address).replace(".", "-")

    def networks(self) -> dict[str, RoutedNetwork]:
        """All networks, by name."""
        return {
            _name(group.start): RoutedNetwork(
                name=_name(group.start), blocks=group.blocks, tunnel_to=tuple(group.tunnel_to)
            )
            for group in self._groups.values()
            if group.blocks
        }


def _name(start: IPv4Network) -> str:
    return f"lxc-{str(start).replace('.', '-').replace('/', '-')}"


def _fitting(start: IPv4Network, count: int) -> str:
    """A block for *count* containers that begins where *start* does, or before."""
    prefix = 32 - (count + 2).bit_length()
    return str(IPv4Network((int(start.network_address), prefix), strict=False))
