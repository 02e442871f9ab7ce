"""BPF objects, programs and maps: load a compiled object, use its maps by bytes, find those of what is attached.

Nothing is pinned: a program lives as long as a filter holds it, a map as long as a program does. A restarted
process reopens both from the id that the filter shows (adopt_maps). File descriptors are bound to no namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.bpf_calls import MapInfo, ProgramInfo, check_result, libbpf, take_log
from agent.kernel.errors import kernel_errors
from agent.kernel.netlink import KernelError
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code

OBJECTS = Path(__file__).parent / "bpf"
#: The kernel keeps 15 characters of a map's or program's name (BPF_OBJ_NAME_LEN).
NAME_MAX = 15
UPDATE_ANY, UPDATE_NEW, UPDATE_EXISTING = 0, 1, 2
ENOTSUPP = 524  # of the kernel, not of errno.h: "this kind of map has no batches"
_PER_CPU_TYPES = frozenset({5, 6, 10, 21})  # (LRU) hash, array, cgroup storage: linux/bpf.h enum bpf_map_type
_ENTRIES_AT_ONCE = 1 << 14


class BpfMap:
    """A map by its file descriptor, which it owns where *owned*. Keys and values are bytes of exactly its sizes.

    A value of a per-CPU map is that of every possible CPU in a row, each padded to eight bytes.
    """

    def __init__(self, fd: int, *, owned: bool, tally: Tally | None = None) -> None:
        self.fd = fd
        self._owned = owned
        self._tally = tally if tally is not None else Tally()
        info = MapInfo()
        _read_info(fd, info)
        self.name: str = info.name.decode()
        self.id: int = info.id
        self.type: int = info.type
        self.key_size: int = info.key_size
        self.max_entries: int = info.max_entries
        #: Kind of map, size of a key, size of one value (that of one CPU).
        self.shape: tuple[int, int, int] = (info.type, info.key_size, info.value_size)
        self.cpus = check_result(libbpf().libbpf_num_possible_cpus()) if info.type in _PER_CPU_TYPES else 0
        self.value_size: int = self.cpus * (-(-info.value_size // 8) * 8) if self.cpus else info.value_size

    def close(self) -> None:
        """Close the descriptor where it is ours. The map lives on while a program or another process holds it."""
        if self._owned and self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def lookup(self, key: bytes) -> bytes | None:
        """The value of *key*, or None."""
        value = ctypes.create_string_buffer(self.value_size)
        with kernel_errors(f"look up in BPF map {self.name}"):
            try:
                check_result(libbpf().bpf_map_lookup_elem(self.fd, self._key(key), value))
            except KernelError as exc:
                if exc.errno == errno.ENOENT:
                    return None
                raise
        return value.raw

    def update(self, key: bytes, value: bytes, *, flags: int = UPDATE_ANY) -> None:
        """Set *key* to *value*. CONFLICT with UPDATE_NEW where it is there; NO_ROOM where the map is full."""
        self._tally.add()
        with kernel_errors(f"write to BPF map {self.name}"):
            try:
                check_result(libbpf().bpf_map_update_elem(self.fd, self._key(key), self._value(value), flags))
            except KernelError as exc:
                if exc.errno == errno.E2BIG:
                    raise KernelError(errno.ENOSPC, f"it is full ({self.max_entries} entries)") from exc
                raise

    def update_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Set all of *entries*: in one call where this kind of map allows it, else one after the other."""
        if not entries:
            return
        keys = b"".join(self._key(key) for key in entries)
        values = b"".join(self._value(value) for value in entries.values())
        count = ctypes.c_uint32(len(entries))
        result = libbpf().bpf_map_update_batch(self.fd, keys, values, ctypes.byref(count), None)
        if result < 0:
            for key, value in entries.items():
                self.update(key, value)
        else:
            self._tally.add()

    def delete(self, key: bytes) -> bool:
        """Remove *key*. False where it was not there."""
        self._tally.add()
        with kernel_errors(f"delete from BPF map {self.name}"):
            try:
                check_result(libbpf().bpf_map_delete_elem(self.fd, self._key(key)))
            except KernelError as exc:
                if exc.errno == errno.ENOENT:
                    return False
                raise
        return True

    def items(self) -> list[tuple[bytes, bytes]]:
        """Every entry, in no order. What changes meanwhile may or may not be seen."""
        with kernel_errors(f"read BPF map {self.name}"):
            try:
                return self._items_in_batches()
            except KernelError as exc:
                if exc.errno not in (ENOTSUPP, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSPC):
                    raise
        return [(key, value) for key in list(self.keys()) if (value := self.lookup(key)) is not None]

    def keys(self) -> Iterator[bytes]:
        """Every key. A key that is deleted while this runs may make it begin again: take a list first."""
        previous: ctypes.Array[ctypes.c_char] | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while libbpf().bpf_map_get_next_key(self.fd, previous, following) == 0:
            yield following.raw
            previous = ctypes.create_string_buffer(following.raw, self.key_size)
        if (error := ctypes.get_errno()) != errno.ENOENT:
            raise KernelError(error, os.strerror(error))

    def _items_in_batches(self) -> list[tuple[bytes, bytes]]:
        room = max(1, min(self.max_entries, _ENTRIES_AT_ONCE))
        keys = ctypes.create_string_buffer(room * self.key_size)
        values = ctypes.create_string_buffer(room * self.value_size)
        position = ctypes.create_string_buffer(max(4, self.key_size))
        found: list[tuple[bytes, bytes]] = []
        first, ended = True, False
        while not ended:
            count = ctypes.c_uint32(room)
            result = libbpf().bpf_map_lookup_batch(
                self.fd, None if first else position, position, keys, values, ctypes.byref(count), None
            )
            if result < 0 and ctypes.get_errno() == errno.ENOENT:
                ended = True
            else:
                check_result(result)
            some_keys = ctypes.string_at(keys, count.value * self.key_size)
            some_values = ctypes.string_at(values, count.value * self.value_size)
            found += zip(_pieces(some_keys, self.key_size), _pieces(some_values, self.value_size), strict=True)
            first = False
        return found

    def _key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"BPF map {self.name}: a key has {self.key_size} bytes, not {len(key)}")
        return key

    def _value(self, value: bytes) -> bytes:
        if len(value) != self.value_size:
            raise ValueError(f"BPF map {self.name}: a value has {self.value_size} bytes, not {len(value)}")
        return value


@dataclass(frozen=True, slots=True)
class BpfProgram:
    """A loaded program. `id` is what a filter shows; `name` has at most 15 characters there."""

    name: str
    fd: int
    id: int


class BpfObject:
    """A compiled object, loaded. `programs` and `maps` are by their names in the source (.bss and such left out).

    *reuse* gives existing maps in place of the object's own: old state under a new program. *sizes* overrides
    max_entries. Closing it closes its descriptors; what is attached stays. Raises UNSUPPORTED with the
    verifier's last lines where the kernel refuses it, NOT_FOUND where it was never compiled.
    """

    def __init__(
        self,
        path: Path,
        *,
        reuse: Mapping[str, BpfMap] | None = None,
        sizes: Mapping[str, int] | None = None,
        tally: Tally | None = None,
    ) -> None:
        if not path.is_file():
            raise CaasError(Code.NOT_FOUND, f"BPF object {path}: not compiled", hint="make bpf")
        self.path = path
        self._tally = tally if tally is not None else Tally()
        library = libbpf()
        take_log()
        self._handle = library.bpf_object__open_file(str(path).encode(), None)
        if not self._handle:
            raise CaasError(Code.UNSUPPORTED, f"BPF object {path}: {_words()}", hint="make bpf")
        try:
            handles = dict(self._map_handles())
            self._prepare(handles, reuse or {}, sizes or {})
            self._tally.add()
            if library.bpf_object__load(self._handle) < 0:
                hint = "run it as root, or with CAP_BPF and CAP_NET_ADMIN" if ctypes.get_errno() == errno.EPERM else ""
                raise CaasError(Code.UNSUPPORTED, f"the kernel does not load {path.name}: {_words()}", hint=hint)
            self.maps = {
                name: BpfMap(library.bpf_map__fd(handle), owned=False, tally=self._tally)
                for name, handle in handles.items()
            }
            self.programs = dict(self._load_programs())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._handle:
            libbpf().bpf_object__close(self._handle)
            self._handle = None

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _map_handles(self) -> Iterator[tuple[str, int]]:
        library = libbpf()
        handle = library.bpf_object__next_map(self._handle, None)
        while handle:
            if not library.bpf_map__is_internal(handle):
                yield library.bpf_map__name(handle).decode(), handle
            handle = library.bpf_object__next_map(self._handle, handle)

    def _prepare(self, handles: Mapping[str, int], reuse: Mapping[str, BpfMap], sizes: Mapping[str, int]) -> None:
        if unknown := (reuse.keys() | sizes.keys()) - handles.keys():
            raise CaasError(Code.INVALID, f"{self.path.name} has no map {', '.join(sorted(unknown))}")
        with kernel_errors(f"prepare the maps of {self.path.name}"):
            for name, size in sizes.items():
                check_result(libbpf().bpf_map__set_max_entries(handles[name], size))
            for name, old in reuse.items():
                # libbpf would take any map, and give its shape to the program.
                if old.shape != _declared_shape(handles[name]):
                    raise CaasError(Code.CONFLICT, f"{self.path.name}: map {name} has another shape than the old one")
                check_result(libbpf().bpf_map__reuse_fd(handles[name], old.fd))

    def _load_programs(self) -> Iterator[tuple[str, BpfProgram]]:
        library = libbpf()
        handle = library.bpf_object__next_program(self._handle, None)
        while handle:
            name, fd = library.bpf_program__name(handle).decode(), library.bpf_program__fd(handle)
            info = ProgramInfo()
            _read_info(fd, info)
            yield name, BpfProgram(name, fd, info.id)
            handle = library.bpf_object__next_program(self._handle, handle)


def map_ids(program_id: int) -> frozenset[int]:
    """The ids of the maps that the loaded program uses. Needs CAP_SYS_ADMIN (BPF_PROG_GET_FD_BY_ID)."""
    with kernel_errors(f"BPF program {program_id}"):
        fd = check_result(libbpf().bpf_prog_get_fd_by_id(program_id))
        try:
            info = ProgramInfo()
            _read_info(fd, info)
            ids = (ctypes.c_uint32 * info.nr_map_ids)()
            info = ProgramInfo(nr_map_ids=len(ids), map_ids=ctypes.addressof(ids))
            _read_info(fd, info)
        finally:
            os.close(fd)
    return frozenset(ids)


def adopt_maps(program_id: int, *, tally: Tally | None = None) -> dict[str, BpfMap]:
    """The maps that the loaded program *program_id* uses, by the 15 characters that the kernel kept of their names.

    Needs CAP_SYS_ADMIN. The caller closes them. NOT_FOUND where the program is gone.
    """
    ids = map_ids(program_id)
    with kernel_errors(f"maps of BPF program {program_id}"):
        maps = _open_maps(ids, tally)
    # libbpf calls the maps behind global variables OBJECT.bss and the like; no C name has a dot.
    for each in maps:
        if "." in each.name:
            each.close()
    return {each.name: each for each in maps if "." not in each.name}


def check_layout(maps: Mapping[str, BpfMap], wanted: Iterable[tuple[str, int, int]]) -> bool:
    """Whether *maps* has each of *wanted* (name, key size, value size): whether this version can adopt them."""
    return all(
        name[:NAME_MAX] in maps
        and (maps[name[:NAME_MAX]].key_size, maps[name[:NAME_MAX]].value_size) == (key_size, value_size)
        for name, key_size, value_size in wanted
    )


def _open_maps(ids: Iterable[int], tally: Tally | None) -> list[BpfMap]:
    opened: list[BpfMap] = []
    try:
        for map_id in ids:
            opened.append(BpfMap(check_result(libbpf().bpf_map_get_fd_by_id(map_id)), owned=True, tally=tally))
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened


def _declared_shape(handle: int) -> tuple[int, int, int]:
    library = libbpf()
    return library.bpf_map__type(handle), library.bpf_map__key_size(handle), library.bpf_map__value_size(handle)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def _read_info(fd: int, info: ctypes.Structure) -> None:
    length = ctypes.c_uint32(ctypes.sizeof(info))
    check_result(libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length)))


def _words() -> str:
    error = ctypes.get_errno()
    return f"{os.strerror(error)}\n{take_log()}".strip()
