"""One compiled object and its maps, in a process that may find both in use by what an earlier one attached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.kernel.bpf import BpfMap, BpfObject, adopt_maps, map_ids
from agent.kernel.tally import Tally


class AdoptedObject:
    """The object at *path*, loaded when first asked for, over the maps that were adopted until then.

    *fits* says whether an adopted map, by its name, is what the object's programs expect: those of another version's
    layout are left to its programs.
    """

    def __init__(self, path: Path, *, fits: Callable[[str, BpfMap], bool], tally: Tally) -> None:
        self._path = path
        self._fits = fits
        self._tally = tally
        self._object: BpfObject | None = None
        self._maps_of_program: dict[int, frozenset[int]] = {}
        self.maps: dict[str, BpfMap] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether `load` was called and ended well."""
        return self._object is not None

    def close(self) -> None:
        """Close descriptors. What is attached goes on."""
        for each in self.maps.values():
            each.close()
        self.maps = {}
        if self._object:
            self._object.close()
            self._object = None

    def adopt(self, program_id: int) -> None:
        """Open the maps of an attached program that fit and are not open yet."""
        for name, found in adopt_maps(program_id, tally=self._tally).items():
            if name in self.maps or not self._fits(name, found):
                found.close()
            else:
                self.maps[name] = found

    def is_read_by(self, program_id: int, map_name: str) -> bool:
        """Whether the attached program reads our map *map_name*."""
        if map_name not in self.maps:
            return False
        if program_id not in self._maps_of_program:
            self._maps_of_program[program_id] = map_ids(program_id)
        return self.maps[map_name].id in self._maps_of_program[program_id]

    def load(self) -> BpfObject:
        """The programs, over the maps that are in use already. Loaded once in the life of this process."""
        if self._object is None:
            adopted = self.maps
            self._object = BpfObject(self._path, reuse=adopted, tally=self._tally)
            self.maps = dict(self._object.maps)
            for each in adopted.values():
                each.close()
        return self._object
