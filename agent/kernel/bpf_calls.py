"""libbpf.so.1 through ctypes: the functions we call, their types, and its log kept for error messages.

libbpf 1.x returns NULL or a negative errno and sets errno. Source: /usr/include/bpf/{libbpf,bpf}.h, version 1.1.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading

from agent.kernel.netlink import KernelError
from proto.errors import CaasError, Code

SONAME = "libbpf.so.1"
LOG_LINES = 12
LOG_CHUNK = 4096

_P, _S, _I, _U = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32
_UP = ctypes.POINTER(ctypes.c_uint32)
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "bpf_object__open_file": (_P, (_S, _P)),
    "bpf_object__load": (_I, (_P,)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__next_map": (_P, (_P, _P)),
    "bpf_object__next_program": (_P, (_P, _P)),
    "bpf_map__name": (_S, (_P,)),
    "bpf_map__fd": (_I, (_P,)),
    "bpf_map__is_internal": (ctypes.c_bool, (_P,)),
    "bpf_map__reuse_fd": (_I, (_P, _I)),
    "bpf_map__type": (_U, (_P,)),
    "bpf_map__key_size": (_U, (_P,)),
    "bpf_map__value_size": (_U, (_P,)),
    "bpf_map__set_max_entries": (_I, (_P, _U)),
    "bpf_program__name": (_S, (_P,)),
    "bpf_program__fd": (_I, (_P,)),
    "bpf_map_update_elem": (_I, (_I, _P, _P, ctypes.c_uint64)),
    "bpf_map_lookup_elem": (_I, (_I, _P, _P)),
    "bpf_map_delete_elem": (_I, (_I, _P)),
    "bpf_map_get_next_key": (_I, (_I, _P, _P)),
    "bpf_map_lookup_batch": (_I, (_I, _P, _P, _P, _P, _UP, _P)),
    "bpf_map_update_batch": (_I, (_I, _P, _P, _UP, _P)),
    "bpf_prog_get_fd_by_id": (_I, (_U,)),
    "bpf_map_get_fd_by_id": (_I, (_U,)),
    "bpf_obj_get_info_by_fd": (_I, (_I, _P, _UP)),
    "libbpf_num_possible_cpus": (_I, ()),
}
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_log = threading.local()


class MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info (linux/bpf.h)."""

    _fields_ = [
        ("type", _U),
        ("id", _U),
        ("key_size", _U),
        ("value_size", _U),
        ("max_entries", _U),
        ("map_flags", _U),
        ("name", ctypes.c_char * 16),
    ]


class ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info (linux/bpf.h)."""

    _fields_ = [
        ("type", _U),
        ("id", _U),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", _U),
        ("xlated_prog_len", _U),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", _U),
        ("nr_map_ids", _U),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    ]


@functools.cache
def libbpf() -> ctypes.CDLL:
    """The library with its functions' types set. UNSUPPORTED where it is not installed."""
    try:
        library = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as exc:
        raise CaasError(Code.UNSUPPORTED, f"{SONAME} is not there: {exc}", hint="apt-get install libbpf1") from exc
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print.restype, library.libbpf_set_print.argtypes = _P, (_PRINT,)
    library.libbpf_set_print(_keep_line)
    return library


def check_result(result: int) -> int:
    """*result* of a libbpf function, or KernelError where it is negative."""
    if result < 0:
        error = ctypes.get_errno() or -result
        raise KernelError(error, os.strerror(error))
    return result


def take_log() -> str:
    """The last lines that libbpf and the verifier wrote in this thread since the last call; then they are gone."""
    lines: list[str] = getattr(_log, "lines", [])
    _log.lines = []
    return "\n".join("".join(lines).splitlines()[-LOG_LINES:])


def _format_line(level: int, template: bytes, arguments: int) -> int:
    # On every ABI with libbpf 1.x a va_list parameter of a callback arrives as a pointer (x86-64, arm64, riscv64).
    buffer = ctypes.create_string_buffer(LOG_CHUNK)
    ctypes.CDLL(None).vsnprintf(buffer, ctypes.c_size_t(LOG_CHUNK), template, ctypes.c_void_p(arguments))
    if not hasattr(_log, "lines"):
        _log.lines = []
    if level < 2:  # LIBBPF_DEBUG is 2
        _log.lines.append(buffer.value.decode(errors="replace"))
    return 0


_keep_line = _PRINT(_format_line)
