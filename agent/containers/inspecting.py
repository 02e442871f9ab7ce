"""What a running container shows of itself, seen from outside: files, systemd's units, listening ports.

No process is started in it: to look into 64 containers by a program in each takes seconds of CPU, this a few
milliseconds each. Paths are resolved in the container's root by the kernel itself (openat2(2), RESOLVE_IN_ROOT), so
that no link a container makes leads out of it. Answers have the shape of coordinator/nova/inside/probe.py's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from jeepney import DBusAddress, HeaderFields, MessageType, Parser, new_method_call

from agent.containers.children import die_with_parent
from agent.containers.keys import open_root
from proto.errors import CaasError, Code

_OPENAT2 = 437  # of every architecture, since Linux 5.6
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10  # linux/openat2.h
#: A rename above the file while the kernel resolves: it asks to be asked again (openat2(2), EAGAIN).
_TRIES = 8
#: A container cannot make its host read without end.
_SIZE_MAX = 1 << 20
_SYSTEMD = DBusAddress(
    "/org/freedesktop/systemd1", bus_name="org.freedesktop.systemd1", interface="org.freedesktop.systemd1.Manager"
)
_PRIVATE = "/run/systemd/private"
#: What image's note-start writes before a unit starts.
_STARTED = "/run/caas/started/"
#: SASL EXTERNAL as user 0 (D-Bus specification, authentication protocol).
_HANDSHAKE = b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n"
_SYSTEMD_SECONDS = 10.0
_CLONE_NEWPID = 0x20000000  # linux/sched.h
_LISTEN = "0A"  # include/net/tcp_states.h
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def inspect(pid: int, *, files: Iterable[str], units: Iterable[str], ports: Iterable[str]) -> dict[str, Any]:
    """Look into the container whose init is *pid*: *files* (absolute paths), *units* (names), *ports* (HOST:PORT).

    `files`: [sha256, mode in octal, owner, group] or None where there is no such regular file; `units`: {"active":
    systemd's ActiveState or "unknown", "started": what it noted at its start}; `ports`: whether somebody listens.
    FAILED where the process has ended, or its systemd does not answer. Call it from a process of one thread.
    """
    with _open_root_of(pid) as root:
        states = _unit_states(root, tuple(units), pid)
        names = _names(root, "/etc/passwd"), _names(root, "/etc/group")
        return {
            "files": {path: _look_at_file(root, path, *names) for path in files},
            "units": {
                unit: {"active": state, "started": (_read(root, _STARTED + unit) or b"").decode(errors="replace")}
                for unit, state in states.items()
            },
            "ports": _look_at_ports(pid, tuple(ports)),
            "http": {},
            "rows": {},
        }


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open *path* as a process would whose root directory is open as *root*. OSError, as openat2(2) has it."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    number = errno.EAGAIN
    for _ in range(_TRIES):
        opened = int(_libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
        if opened >= 0:
            return opened
        if (number := ctypes.get_errno()) != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


@contextlib.contextmanager
def _open_root_of(pid: int) -> Any:
    try:
        with open_root(Path(f"/proc/{pid}/root")) as root:
            yield root
    except ProcessLookupError as exc:
        raise CaasError(Code.FAILED, f"process {pid}, a container's init, has just ended") from exc


def _open_regular(root: int, path: str) -> int | None:
    """None where it cannot be read, or is no regular file: a probe says so by its absence."""
    try:
        opened = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    return None


def _read(root: int, path: str) -> bytes | None:
    opened = _open_regular(root, path)
    if opened is None:
        return None
    with os.fdopen(opened, "rb") as file:
        return file.read(_SIZE_MAX)


def _look_at_file(root: int, path: str, owners: Mapping[int, str], groups: Mapping[int, str]) -> list[str] | None:
    opened = _open_regular(root, path)
    if opened is None:
        return None
    with os.fdopen(opened, "rb") as file:
        status = os.fstat(opened)
        digest = hashlib.sha256(file.read(_SIZE_MAX)).hexdigest()
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    owner, group = owners.get(status.st_uid, str(status.st_uid)), groups.get(status.st_gid, str(status.st_gid))
    return [digest, mode, owner, group]


def _names(root: int, path: str) -> dict[int, str]:
    """Names by number, of passwd(5) or group(5); the first line with a number counts."""
    found: dict[int, str] = {}
    for line in (_read(root, path) or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found


def _unit_states(root: int, units: tuple[str, ...], pid: int) -> dict[str, str]:
    """ActiveState of each, by systemd's private socket; "unknown" where no systemd listens (yet)."""
    states = dict.fromkeys(units, "unknown")
    if not units:
        return states
    try:
        place = open_in_root(root, _PRIVATE, os.O_PATH)
    except OSError:
        return states
    try:
        answer = json.loads(_run_in_pid_namespace(pid, lambda: json.dumps(_ask_systemd(place, units)).encode()))
    except OSError as exc:
        raise CaasError(Code.FAILED, f"process {pid}, a container's init, has just ended: {exc.strerror}") from exc
    finally:
        os.close(place)
    if error := answer.get("error"):
        raise CaasError(Code.FAILED, f"systemd of the container with init {pid}: {error}")
    return states | dict(answer)


def _ask_systemd(place: int, units: tuple[str, ...]) -> dict[str, str]:
    """Runs in a child. Nothing where it goes down, or comes up."""
    message = new_method_call(_SYSTEMD, "ListUnitsByNames", "as", ([f"{unit}.service" for unit in units],))
    parser, reply = Parser(), None
    try:
        with socket.socket(socket.AF_UNIX) as systemd:
            systemd.settimeout(_SYSTEMD_SECONDS)
            # Through /proc/self/fd: the socket that was found, whatever its path leads to by now.
            systemd.connect(f"/proc/self/fd/{place}")
            # In one piece, and the message only when that is answered: what sd-bus reads together with BEGIN it leaves
            # lying until more comes.
            systemd.sendall(_HANDSHAKE)
            if not systemd.recv(_SIZE_MAX).startswith(b"OK "):
                return {"error": "it does not take us for root"}
            systemd.sendall(message.serialise(serial=1))
            while reply is None:
                if not (data := systemd.recv(_SIZE_MAX)):
                    return {}
                parser.add_data(data)
                # What else it tells everyone, units that start and end, may come in one piece with the reply.
                said = iter(parser.get_next_message, None)
                reply = next((one for one in said if one.header.message_type is not MessageType.signal), None)
    except TimeoutError:
        return {"error": f"no answer in {_SYSTEMD_SECONDS:g} s"}
    except (ConnectionRefusedError, ConnectionResetError):
        return {}
    if reply.header.message_type is not MessageType.method_return:
        return {"error": str(reply.header.fields.get(HeaderFields.error_name, "an error"))}
    return {unit.removesuffix(".service"): active for unit, _, _, active, *_ in reply.body[0]}


def _run_in_pid_namespace(pid: int, work: Callable[[], bytes]) -> bytes:
    """What *work* returns in a child that lives in the PID namespace of process *pid*.

    systemd refuses a peer that its namespace has no number for (unix(7), SO_PEERCRED). Only children enter the
    namespace (pid_namespaces(7)); this process, which must have one thread, goes on making its own where it is.
    """
    with contextlib.ExitStack() as opened:
        own = _open_pid_namespace(opened, "self")
        theirs = _open_pid_namespace(opened, str(pid))
        _set_pid_namespace(theirs)
        reader, writer = os.pipe()
        answer = opened.enter_context(open(reader, "rb"))
        try:
            child = os.fork()
            if child == 0:
                _say(writer, work)
        finally:
            _set_pid_namespace(own)
            os.close(writer)
        said = answer.read()
        os.waitpid(child, 0)
        return said or b'{"error": "who asked it ended without a word"}'


def _say(writer: int, work: Callable[[], bytes]) -> NoReturn:
    """A child's life: nothing of its parent's is cleaned up or closed."""
    try:
        die_with_parent()
        os.write(writer, work())
    except BaseException as exc:
        os.write(writer, json.dumps({"error": f"{type(exc).__name__}: {exc}"}).encode())
    finally:
        os._exit(0)


def _open_pid_namespace(opened: contextlib.ExitStack, process: str) -> int:
    """That of *process*, until *opened* closes it."""
    namespace = os.open(f"/proc/{process}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, namespace)
    return namespace


def _set_pid_namespace(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWPID):
        number = ctypes.get_errno()
        raise CaasError(Code.FAILED, f"setns: {os.strerror(number)}", hint="run the agent as root")


def _look_at_ports(pid: int, ports: tuple[str, ...]) -> dict[str, bool]:
    """Whether a socket listens at each HOST:PORT, there or at all addresses (proc_net_tcp.rst)."""
    if not ports:
        return {}
    listening: set[tuple[bytes, int]] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}") as file:
            next(file)
            for line in file:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    address, _, port = local.partition(":")
                    listening.add((_address_bytes(address), int(port, 16)))
    any_address = {bytes(4), bytes(16)}
    found = {}
    for place in ports:
        host, _, port = place.rpartition(":")
        found[place] = any((one, int(port)) in listening for one in (socket.inet_aton(host), *any_address))
    return found


def _address_bytes(text: str) -> bytes:
    """Words in the machine's byte order, as the kernel prints them, to the network's."""
    words = bytes.fromhex(text)
    return b"".join(struct.pack(">I", *struct.unpack_from("=I", words, at)) for at in range(0, len(words), 4))
