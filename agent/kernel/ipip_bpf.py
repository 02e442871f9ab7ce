"""The BPF realisation of an `ipip` device (bpf/ipip.bpf.c): a veth pair whose near end carries the tunnel's name.

What is attached and what the maps say is the truth; nothing is remembered elsewhere. A restarted process finds a far
end by its mark, the programs by their filters, and the maps by the programs (agent.kernel.bpf.adopt_maps).
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from agent.kernel import layer3, links
from agent.kernel.bpf import BpfMap, BpfObject
from agent.kernel.bpf_adopted import AdoptedObject
from agent.kernel.errors import take_back
from agent.kernel.filters import Direction
from agent.kernel.ipip_kernel import BROKEN, make_ipip
from agent.kernel.ipip_places import (
    DROPS,
    ENDS,
    INDEX,
    LEAVERS,
    LENGTH,
    OBJECT,
    OWN,
    PORT,
    SHAPES,
    SOURCES,
    THERE,
    TUNNELS,
    WAYS,
    Entries,
    Places,
    fits,
    rewrite,
)
from agent.kernel.ipip_straight import Straight
from agent.kernel.links import ARPHRD_ETHER, IFF_NOARP, IFF_UP, Ends, Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.sysctl import make_quiet, make_way
from agent.kernel.tunnel_sources import (
    CHECKSUM,
    FRAGMENT,
    MALFORMED,
    NESTED,
    OPTIONS,
    OWN_SOURCE,
    SOURCE,
    Taken,
    judge_prefixes,
)
from proto.errors import CaasError, Code, invalid
from proto.marks import HOST, Mark
from proto.model import Ipip
from proto.names import make_link_name

FAR_END = "ipip-far-end"
#: In the order of `enum reason` of the program.
REASONS = ("", SOURCE, OWN_SOURCE, FRAGMENT, OPTIONS, NESTED, CHECKSUM, MALFORMED)
#: `enum verdict` of the program.
_THEIRS, _OURS = INDEX.pack(1), INDEX.pack(2)
_ENDS_BITS = 64
#: What a tunnel needs; the others are `straight`'s.
_NEEDED = SHAPES.keys() - {LEAVERS, WAYS}


@dataclass(frozen=True, slots=True)
class _Pair:
    """A near end with its far end, and the tunnel's ends as the maps have them (None: they have not)."""

    near: SeenLink
    far: SeenLink
    ends: Ends | None


class BpfTunnels:
    """Makes, lists, changes and deletes BPF tunnels through one connection. Raises KernelError and CaasError."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection
        self._programs = AdoptedObject(OBJECT, fits=fits, tally=connection.tally)
        self._places = Places(connection, self._programs)
        #: Between containers and tunnels; after what changes these, whoever owns this sets its ports anew.
        self.straight = Straight(self._programs, self._places)

    @property
    def _maps(self) -> dict[str, BpfMap]:
        return self._programs.maps

    def close(self) -> None:
        """Close descriptors. What is attached goes on carrying packets."""
        self._programs.close()

    def is_one(self, seen: Links, link: SeenLink) -> bool:
        """Whether *link* is the near end of a pair of ours."""
        return link.kind == "veth" and (far := seen.by_index.get(link.link)) is not None and is_far_end(far)

    def observe(self, seen: Links) -> list[Ipip]:
        """Every marked pair. One that lost its filter or its entry, or is down, has the local address 0.0.0.0."""
        return [
            make_ipip(pair.near, pair.ends or _ends_of(pair.far), sound=self._is_sound(pair))
            for pair in self._pairs(seen)
            if pair.near.mark
        ]

    def create(self, seen: Links, wanted: Ipip) -> None:
        self._load(seen)
        near, far = links.make_ifindex(), links.make_ifindex()
        far_name = make_link_name(f"{FAR_END}-of-{wanted.name}", kind="ipip")
        with ExitStack() as undo:
            undo.callback(take_back, links.delete_link, self._connection, near)
            mac = bytes((2,)) + struct.pack("=I", near) + b"\0"
            links.perform(
                self._connection,
                [
                    links.new_veth(near, wanted.name, peer_index=far, peer_name=far_name, mtu=wanted.mtu, mac=mac),
                    links.set_link(near, mark=wanted.mark, flags=IFF_NOARP),
                    links.set_link(far, mark=_far_mark(wanted), flags=IFF_NOARP),
                ],
            )
            make_quiet((far_name,), netns=self._connection.netns, tally=self._connection.tally)
            make_way(wanted.name, netns=self._connection.netns, tally=self._connection.tally)
            undo.callback(take_back, self._maps[TUNNELS].delete, INDEX.pack(near))
            self._maps[TUNNELS].update(INDEX.pack(near), _pack_ends(wanted.local, wanted.remote))
            self._places.attach(near, Direction.EGRESS, "ipip_wrap")
            links.perform(self._connection, [links.set_link(each, flags=IFF_UP) for each in (far, near)])
            undo.pop_all()

    def change(self, seen: Links, near: SeenLink, after: Ipip) -> None:
        """All of it in place, with its routes. Parts that were lost are put back."""
        self._load(seen)
        far = seen.by_index[near.link]
        if (_ends_of(far).remote is None) != (after.remote is None):
            raise invalid(f"tunnel {after.name}: one that leads to any far end has a name of its own")
        make_quiet((far.name,), netns=self._connection.netns, tally=self._connection.tally)
        make_way(near.name, netns=self._connection.netns, tally=self._connection.tally)
        self._maps[TUNNELS].update(INDEX.pack(near.index), _pack_ends(after.local, after.remote))
        self._places.attach(near.index, Direction.EGRESS, "ipip_wrap")
        links.perform(
            self._connection,
            [
                links.set_link(far.index, mtu=after.mtu, mark=_far_mark(after), flags=IFF_NOARP | IFF_UP),
                links.set_link(near.index, mtu=after.mtu, mark=after.mark, flags=IFF_NOARP | IFF_UP),
            ],
        )

    def delete(self, seen: Links, near: SeenLink) -> None:
        self._adopt(seen)
        links.delete_link(self._connection, near.index)
        if TUNNELS in self._maps:
            self._maps[TUNNELS].delete(INDEX.pack(near.index))

    def is_as(self, seen: Links, taken: Taken) -> bool:
        """Whether the maps take exactly what is to be *taken*, on every link of the underlay."""
        self._adopt(seen)
        if not self._pairs(seen):
            return True
        if ENDS not in self._maps:
            return False
        holders = {
            link.index for link in self._ethernet(seen) if self._places.holds(link.index, Direction.INGRESS, ENDS)
        }
        wanted = self._wanted(seen, taken)
        return self._underlay(seen, taken) <= holders and all(
            dict(self._maps[name].items()) == entries for name, entries in wanted.items()
        )

    def refresh(self, seen: Links, taken: Taken) -> None:
        """Make the maps take what is to be *taken*, and nothing else; be where the underlay is, and nowhere else."""
        self._adopt(seen)
        pairs = self._pairs(seen)
        if TUNNELS in self._maps:
            known = {INDEX.pack(pair.near.index) for pair in pairs}
            for key, _ in self._maps[TUNNELS].items():
                if key not in known:
                    self._maps[TUNNELS].delete(key)
        if pairs:
            self._load(seen)
        for name, wanted in self._wanted(seen, taken).items():
            if name in self._maps:
                rewrite(self._maps[name], wanted)
        if not pairs:
            self.straight.set_entrances(seen, set())
        places = self._underlay(seen, taken) if pairs else set()
        for link in self._ethernet(seen):
            if link.index in places:
                if not self._places.holds(link.index, Direction.INGRESS, ENDS):
                    self._places.attach(link.index, Direction.INGRESS, "ipip_unwrap")
            else:
                self._places.clear(link.index, Direction.INGRESS)

    def drops(self, seen: Links) -> dict[str, int]:
        """Packets by reason since the first tunnel was made."""
        self._adopt(seen)
        found = {reason: 0 for reason in REASONS if reason}
        for key, value in self._maps[DROPS].items() if DROPS in self._maps else ():
            if reason := REASONS[INDEX.unpack(key)[0]]:
                found[reason] = sum(struct.unpack(f"={len(value) // 8}Q", value))
        return found

    def underlay_of(self, seen: Links, wanted: Ipip) -> SeenLink | None:
        """The link that packets to the far end leave by, or None. UNSUPPORTED where it is no Ethernet."""
        if wanted.remote is None:
            return None
        link = seen.by_index.get(layer3.find_out_link(self._connection, wanted.remote, src=wanted.local))
        if link is not None and link.arp_type != ARPHRD_ETHER:
            raise CaasError(Code.UNSUPPORTED, f"tunnel {wanted.name}: {link.name} of the underlay is no Ethernet link")
        return link

    def _pairs(self, seen: Links) -> list[_Pair]:
        self._adopt(seen)
        tunnels = dict(self._maps[TUNNELS].items()) if TUNNELS in self._maps else {}
        return [
            _Pair(near, far, _unpack_ends(entry) if (entry := tunnels.get(INDEX.pack(near.index))) else None)
            for far in seen
            if is_far_end(far) and (near := seen.by_index.get(far.link))
        ]

    def _is_sound(self, pair: _Pair) -> bool:
        return (
            pair.ends is not None
            and pair.near.up
            and pair.far.up
            and pair.far.mtu == pair.near.mtu
            and self._places.holds(pair.near.index, Direction.EGRESS, TUNNELS)
        )

    def _wanted(self, seen: Links, taken: Taken) -> dict[str, Entries]:
        nears = {pair.near.name: pair.near for pair in self._pairs(seen) if pair.near.mark}
        ends = {each: nears[name] for each, name in taken.names.items() if name in nears}
        return {
            ENDS: {_pack_ends(*each): PORT.pack(near.index, near.mac, b"\0" * 6) for each, near in ends.items()},
            SOURCES: {
                _pack_source(each, network): _THEIRS if is_theirs else _OURS
                for each in ends
                for network, is_theirs in judge_prefixes(taken.sources[each], taken.own).items()
            },
            OWN: {_pack_block(network): THERE for network in taken.own} if nears else {},
        }

    def _underlay(self, seen: Links, taken: Taken) -> set[int]:
        """The links that packets of the far ends may come by: those that lead there, and those with our addresses."""
        nears = {pair.near.name for pair in self._pairs(seen)}
        ends = [each for each, name in taken.names.items() if name in nears]
        locals_ = {local for local, _ in ends}
        ethernet = {link.name: link.index for link in self._ethernet(seen)}
        near = {
            each.thing.address: ethernet[each.thing.link]
            for each in layer3.list_addresses(self._connection, seen)
            if each.thing.link in ethernet
        }
        places = {index for address, index in near.items() if address.ip in locals_}
        for local, remote in ends:
            # Asking the kernel for each of many far ends takes its time, and most are neighbours.
            neighbours = {index for address, index in near.items() if remote in address.network}
            places |= neighbours or {layer3.find_out_link(self._connection, remote, src=local)}
        return places & set(ethernet.values())

    @staticmethod
    def _ethernet(seen: Links) -> list[SeenLink]:
        """The links that can be the underlay's, none of ours."""
        return [link for link in seen if link.arp_type == ARPHRD_ETHER and not link.mark and not link.master]

    def _adopt(self, seen: Links) -> None:
        """Open the maps of what is attached, where this process has none yet. What is missing stays missing."""
        nears = [seen.by_index[far.link] for far in seen if is_far_end(far) and far.link in seen.by_index]
        if self._maps.keys() >= _NEEDED or (not nears and self._maps):
            return
        for link in nears:
            self._adopt_from(link.index, Direction.EGRESS)
        for link in self._ethernet(seen) if nears else ():
            self._adopt_from(link.index, Direction.INGRESS)

    def _adopt_from(self, index: int, direction: Direction) -> None:
        attached = self._places.find(index, direction)
        if attached is not None and not self._maps.keys() >= _NEEDED:
            self._programs.adopt(attached.program_id)

    def _load(self, seen: Links) -> BpfObject:
        """The programs, over the maps that are in use already. Loaded once in the life of this process."""
        self._adopt(seen)
        return self._programs.load()


def is_far_end(link: SeenLink) -> bool:
    """Whether *link* is the far end of a BPF tunnel of ours, by its mark."""
    mark = link.mark
    return mark is not None and mark.cluster == HOST and mark.object.startswith(FAR_END + ":")


def _far_mark(tunnel: Ipip) -> Mark:
    return Mark(HOST, f"{FAR_END}:{tunnel.remote or BROKEN}")


def _ends_of(far: SeenLink) -> Ends:
    """What the far end was made for: what to show where the maps say nothing."""
    last = far.alias.rpartition(":")[2]
    remote = IPv4Address(last) if last.count(".") == 3 else BROKEN
    return Ends(BROKEN, None if remote == BROKEN else remote)


def _pack_ends(local: IPv4Address, remote: IPv4Address | None) -> bytes:
    return local.packed + (remote or BROKEN).packed


def _unpack_ends(entry: bytes) -> Ends:
    remote = IPv4Address(entry[4:])
    return Ends(IPv4Address(entry[:4]), None if remote == BROKEN else remote)


def _pack_source(ends: tuple[IPv4Address, IPv4Address], network: IPv4Network) -> bytes:
    return LENGTH.pack(_ENDS_BITS + network.prefixlen) + _pack_ends(*ends) + network.network_address.packed


def _pack_block(network: IPv4Network) -> bytes:
    return LENGTH.pack(network.prefixlen) + network.network_address.packed
