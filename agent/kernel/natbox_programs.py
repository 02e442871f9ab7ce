"""NATBox's two programs on the trunk, and their maps: adopted from what is attached, replaced without losing a packet.

A filter's name ends in a digest of the compiled object: the same digest is left alone, another one is replaced in one
step, its maps kept. Egress goes first, so that nothing comes in before it can go out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from agent.kernel.bpf import OBJECTS, BpfMap, BpfObject, adopt_maps, check_layout
from agent.kernel.errors import kernel_errors
from agent.kernel.filters import (
    Attached,
    Direction,
    add_clsact,
    attach,
    detach,
    has_clsact,
    list_attached,
    remove_clsact,
)
from agent.kernel.links import SeenLink
from agent.kernel.natbox_layout import MAPS
from agent.kernel.natbox_path import Memory, SeenPiece
from agent.kernel.netlink import Netlink
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.marks import HOST, Mark

OBJECT = OBJECTS / "natbox.bpf.o"
PRIORITY = 202
PLACES = ((Direction.EGRESS, "natbox_out"), (Direction.INGRESS, "natbox_in"))
_OURS = str(Mark(HOST, "natbox"))


class NatboxPrograms:
    """The programs on *trunk*. `maps` is empty until they were adopted or made.

    What is attached is looked at by `see`; the rest goes by what was seen there, or made since.
    """

    title = "programs on the trunk"

    def __init__(self, connection: Netlink, trunk: SeenLink, *, memory: Memory, tally: Tally) -> None:
        self._connection = connection
        self._trunk = trunk
        self._memory = memory
        self._tally = tally
        self.maps: Mapping[str, BpfMap] = {}
        self._attached: Mapping[Direction, Attached] = {}

    def see(self) -> None:
        """Look at what is attached now. NOT_OWNED where somebody else's filter is in our place."""
        self._attached = self._list_ours()

    def adopt(self) -> None:
        """Open the maps of what is attached, whichever version it is; none where nothing of ours is."""
        self.close()
        self.see()
        for each in self._attached.values():
            found = adopt_maps(each.program_id, tally=self._tally)
            if "nb_traffic" in found and check_layout(found, MAPS):
                self.maps = found
                return
            for each_map in found.values():
                each_map.close()

    def close(self) -> None:
        """Close the maps; they live on with the programs."""
        for each in self.maps.values():
            each.close()
        self.maps = {}

    @property
    def maps_in_use(self) -> Mapping[str, BpfMap]:
        """`maps`; none where nothing of ours is attached, so that what they say is nobody's."""
        return self.maps if self._attached else {}

    def look(self) -> SeenPiece:
        names = {direction: each.name for direction, each in self._attached.items()}
        return SeenPiece(
            is_there=bool(self.maps) and names == _make_names(),
            is_left=bool(names) or self._memory.get(self._clsact) is not None,
        )

    def make(self) -> None:
        """Attach both programs over the maps that there are, or new ones."""
        names = _make_names()
        with BpfObject(OBJECT, reuse=self._reusable(), tally=self._tally) as loaded:
            with kernel_errors(f"attach NATBox's programs to {self._trunk.name}"):
                if not has_clsact(self._connection, self._trunk.index):
                    self._memory.put(self._clsact, "made")  # first: whoever is killed in between has noted it
                    add_clsact(self._connection, self._trunk.index)
                for direction, program in PLACES:
                    attach(
                        self._connection,
                        self._trunk.index,
                        direction,
                        loaded.programs[program],
                        priority=PRIORITY,
                        name=names[direction],
                    )
        self.adopt()

    def remove(self) -> None:
        """Detach both; the maps go with them. Already gone is success."""
        self.close()
        self.see()  # also what was left half made
        with kernel_errors(f"detach NATBox's programs from {self._trunk.name}"):
            for direction, _ in reversed(PLACES):
                if direction in self._attached:
                    detach(self._connection, self._trunk.index, direction, priority=PRIORITY)
            if self._memory.get(self._clsact) is not None:
                if not list_attached(self._connection, self._trunk.index):
                    remove_clsact(self._connection, self._trunk.index)
                self._memory.forget(self._clsact)
        self._attached = {}

    @property
    def _clsact(self) -> str:
        return f"clsact {self._trunk.name}"

    def _reusable(self) -> dict[str, BpfMap]:
        return {name: found for name, found in self.maps.items() if name.startswith("nb_")}

    def _list_ours(self) -> dict[Direction, Attached]:
        with kernel_errors(f"list the filters of {self._trunk.name}"):
            found = [
                each
                for each in list_attached(self._connection, self._trunk.index)
                if each.priority == PRIORITY and each.handle == 1
            ]
        for each in found:
            if not each.name.startswith(_OURS + "-"):
                raise CaasError(
                    Code.NOT_OWNED,
                    f"the tc filter {each.name!r} on {self._trunk.name}, priority {PRIORITY}, is not ours",
                    hint=f"tc filter del dev {self._trunk.name} {each.direction.name.lower()} prio {PRIORITY}",
                )
        return {each.direction: each for each in found}


def _make_names() -> dict[Direction, str]:
    """What our filters are called that hold this build of the programs."""
    digest = object_digest()
    return {direction: f"{_OURS}-{program}-{digest}" for direction, program in PLACES}


def object_digest() -> str:
    """12 hex digits that tell this build of the programs from others. NOT_FOUND where they were not compiled."""
    try:
        return hashlib.sha256(OBJECT.read_bytes()).hexdigest()[:12]
    except FileNotFoundError as exc:
        raise CaasError(Code.NOT_FOUND, f"BPF object {OBJECT}: not compiled", hint="make bpf") from exc


def check_loads() -> None:
    """Load the programs and let them go again. UNSUPPORTED with the verifier's words where the kernel refuses."""
    BpfObject(OBJECT).close()
