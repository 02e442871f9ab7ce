"""The BPF realisation of a `vlan` (bpf/vlan.bpf.c): a veth pair whose near end carries the vlan's name.

What is attached and what the maps say is the truth; nothing is remembered elsewhere. A restarted process finds a far
end by its mark, its program by the filter, and the maps by the program (agent.kernel.bpf.adopt_maps).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from agent.kernel import links, trunks
from agent.kernel.bpf import OBJECTS, BpfMap, BpfObject, check_layout
from agent.kernel.bpf_adopted import AdoptedObject
from agent.kernel.errors import take_back
from agent.kernel.links import IFF_NOARP, IFF_UP, Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.sysctl import make_quiet
from agent.kernel.vlan_kernel import BROKEN, master_name
from proto.marks import HOST, Mark
from proto.model import Vlan
from proto.model.network import VID_MAX, VID_MIN
from proto.names import make_link_name

OBJECT = OBJECTS / "vlan.bpf.o"
TAGS, FAR_ENDS = "vlan_tags", "vlan_far_ends"
LAYOUT = ((TAGS, 4, 8), (FAR_ENDS, 8, 4))
FAR_END = "vlan-far-end"
_INDEX = struct.Struct("=I")
_TAG = struct.Struct("=II")
#: (trunk, VID) -> far end
Entries = dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A near end with its far end, and the tag that the maps hold for it (None: none)."""

    near: SeenLink
    far: SeenLink
    tag: tuple[int, int] | None


class BpfVlans:
    """Makes, lists, changes and deletes BPF vlans through one connection. Raises KernelError and CaasError."""

    def __init__(self, connection: Netlink) -> None:
        self._connection = connection
        self._programs = AdoptedObject(OBJECT, fits=_fits, tally=connection.tally)

    @property
    def _maps(self) -> dict[str, BpfMap]:
        return self._programs.maps

    def close(self) -> None:
        """Close descriptors. What is attached goes on carrying frames."""
        self._programs.close()

    def observe(self, seen: Links) -> list[Vlan]:
        """Every marked pair. One that lost a filter, a map entry or its trunk, or is down, has the parent BROKEN."""
        pairs = self._pairs(seen)
        entries = self._far_ends()
        sound_trunks = {index: self._has_program(index, FAR_ENDS) for index in {trunk for trunk, _ in entries}}
        return [self._vlan(seen, pair, entries, sound_trunks) for pair in pairs if pair.near.mark]

    def is_one(self, seen: Links, link: SeenLink) -> bool:
        """Whether *link* is the near end of a pair of ours."""
        return link.kind == "veth" and (far := seen.by_index.get(link.link)) is not None and is_far_end(far)

    def find_vid(self, seen: Links, trunk: SeenLink, vid: int) -> str:
        """The name of the vlan that has *vid* on *trunk*, or ""."""
        self._adopt(seen, (trunk,))
        return next((pair.near.name for pair in self._pairs(seen) if pair.tag == (trunk.index, vid)), "")

    def create(self, seen: Links, wanted: Vlan, trunk: SeenLink, master: int) -> None:
        loaded = self._load(seen, trunk)
        near, far = links.make_ifindex(), links.make_ifindex()
        far_name = make_link_name(f"{FAR_END}-of-{wanted.name}", kind="vlan")
        with ExitStack() as undo:
            undo.callback(take_back, links.delete_link, self._connection, near)
            links.perform(
                self._connection,
                [
                    links.new_veth(
                        near, wanted.name, peer_index=far, peer_name=far_name, mtu=wanted.mtu, mac=trunk.mac
                    ),
                    links.set_link(near, mark=wanted.mark),
                    links.set_link(far, mark=_far_mark(wanted), flags=IFF_NOARP),
                ],
            )
            # Both are down until the host's own stack can neither be heard nor speak at either end.
            make_quiet((wanted.name, far_name), netns=self._connection.netns, tally=self._connection.tally)
            trunks.attach_far_end(self._connection, far, loaded.programs["vlan_append"])
            undo.callback(take_back, self._forget, seen, far)
            self._point(far, (trunk.index, wanted.vid))
            trunks.attach_trunk(self._connection, trunk, loaded.programs["vlan_strip"])
            joined = [links.set_link(near, master=master)] * bool(master)
            raised = [links.set_link(far, flags=IFF_UP), links.set_link(near, flags=IFF_UP)]
            links.perform(self._connection, [*joined, *raised])
            undo.pop_all()

    def change(self, seen: Links, near: SeenLink, after: Vlan, master: int) -> None:
        """All of it in place, also parent and VID. Parts that were lost are put back."""
        trunk, far = seen.by_name[after.parent], seen.by_index[near.link]
        loaded = self._load(seen, trunk)
        before, tag = self._tags().get(far.index), (trunk.index, after.vid)
        make_quiet((near.name, far.name), netns=self._connection.netns, tally=self._connection.tally)
        trunks.attach_far_end(self._connection, far.index, loaded.programs["vlan_append"])
        self._point(far.index, tag)
        trunks.attach_trunk(self._connection, trunk, loaded.programs["vlan_strip"])
        mac = None if before and before[0] == trunk.index else trunk.mac
        links.perform(
            self._connection,
            [
                links.set_link(far.index, mtu=after.mtu, mark=_far_mark(after), flags=IFF_NOARP | IFF_UP),
                links.set_link(near.index, mtu=after.mtu, master=master, mark=after.mark, mac=mac, flags=IFF_UP),
            ],
        )
        if before and before != tag:
            self._drop_entry(before, far.index)
            self._release(seen, before[0])

    def delete(self, seen: Links, near: SeenLink) -> None:
        self._adopt(seen, ())
        links.delete_link(self._connection, near.index)
        self._forget(seen, near.link)

    def sweep(self, seen: Links, trunk: SeenLink | None) -> None:
        """Forget far ends that are gone (deleted by hand), and leave *trunk* alone where no far end needs it."""
        self._adopt(seen, (trunk,) if trunk else ())
        for far in [far for far in self._tags() if far not in seen.by_index]:
            self._forget(seen, far)
        if trunk is not None:
            self._release(seen, trunk.index)

    def _pairs(self, seen: Links) -> list[_Pair]:
        self._adopt(seen, ())
        tags = self._tags()
        far_ends = [link for link in seen if is_far_end(link) and link.link in seen.by_index]
        return [_Pair(seen.by_index[far.link], far, tags.get(far.index)) for far in far_ends]

    def _vlan(self, seen: Links, pair: _Pair, entries: Entries, sound_trunks: dict[int, bool]) -> Vlan:
        trunk = seen.by_index.get(pair.tag[0]) if pair.tag else None
        sound = (
            pair.tag is not None
            and trunk is not None
            and entries.get(pair.tag) == pair.far.index
            and sound_trunks[trunk.index]
            and pair.near.up
            and pair.far.up
            and self._has_program(pair.far.index, TAGS)
        )
        assert pair.near.mark
        return Vlan(
            name=pair.near.name,
            parent=trunk.name if trunk and sound else BROKEN,
            vid=pair.tag[1] if pair.tag else _far_vid(pair.far),
            mtu=min(pair.near.mtu, pair.far.mtu),
            master=master_name(seen, pair.near),
            mark=pair.near.mark,
        )

    def _has_program(self, index: int, map_name: str) -> bool:
        """Whether a program that reads our map *map_name* stands at the ingress of the link."""
        found = trunks.find_filter(self._connection, index)
        return found is not None and self._programs.is_read_by(found.program_id, map_name)

    def _adopt(self, seen: Links, more: Iterable[SeenLink]) -> None:
        """Open the maps of what is attached, where this process has none yet. What is missing stays missing."""
        for link in [*(each for each in seen if is_far_end(each)), *more]:
            if TAGS in self._maps and FAR_ENDS in self._maps:
                return
            self._adopt_from(link.index)
            for trunk in {tag[0] for tag in self._tags().values()} if FAR_ENDS not in self._maps else ():
                self._adopt_from(trunk)

    def _adopt_from(self, index: int) -> None:
        attached = trunks.find_filter(self._connection, index)
        if attached is not None:
            self._programs.adopt(attached.program_id)

    def _load(self, seen: Links, trunk: SeenLink) -> BpfObject:
        """The programs, over the maps that are in use already. Loaded once in the life of this process."""
        self._adopt(seen, (trunk,))
        is_new = not self._programs.is_loaded and FAR_ENDS not in self._maps
        loaded = self._programs.load()
        if is_new:
            for far, tag in self._tags().items():
                self._point(far, tag)
        return loaded

    def _tags(self) -> dict[int, tuple[int, int]]:
        entries = self._maps[TAGS].items() if TAGS in self._maps else ()
        return {_INDEX.unpack(key)[0]: _TAG.unpack(value) for key, value in entries}

    def _far_ends(self) -> Entries:
        entries = self._maps[FAR_ENDS].items() if FAR_ENDS in self._maps else ()
        return {_TAG.unpack(key): _INDEX.unpack(value)[0] for key, value in entries}

    def _point(self, far: int, tag: tuple[int, int]) -> None:
        self._maps[TAGS].update(_INDEX.pack(far), _TAG.pack(*tag))
        self._maps[FAR_ENDS].update(_TAG.pack(*tag), _INDEX.pack(far))

    def _drop_entry(self, tag: tuple[int, int], far: int) -> None:
        if self._maps[FAR_ENDS].lookup(_TAG.pack(*tag)) == _INDEX.pack(far):
            self._maps[FAR_ENDS].delete(_TAG.pack(*tag))

    def _forget(self, seen: Links, far: int) -> None:
        tag = self._tags().get(far)
        if tag is not None:
            self._maps[TAGS].delete(_INDEX.pack(far))
            if FAR_ENDS in self._maps:
                self._drop_entry(tag, far)
            self._release(seen, tag[0])

    def _release(self, seen: Links, trunk: int) -> None:
        if trunk in seen.by_index and not any(tag[0] == trunk for tag in self._tags().values()):
            trunks.release_trunk(self._connection, seen.by_index[trunk])


def _fits(name: str, found: BpfMap) -> bool:
    """What does not fit is left to another version's programs; pair by pair ours take over (BROKEN)."""
    return check_layout({name: found}, [each for each in LAYOUT if each[0] == name])


def is_far_end(link: SeenLink) -> bool:
    """Whether *link* is the far end of a BPF vlan of ours, by its mark."""
    mark = link.mark
    return mark is not None and mark.cluster == HOST and mark.object.startswith(FAR_END + ":")


def _far_mark(vlan: Vlan) -> Mark:
    return Mark(HOST, f"{FAR_END}:{vlan.vid}")


def _far_vid(far: SeenLink) -> int:
    """The VID that the far end was made for: what to show where the maps say nothing."""
    last = far.alias.rpartition(":")[2]
    return int(last) if last.isdecimal() and VID_MIN <= int(last) <= VID_MAX else VID_MIN
