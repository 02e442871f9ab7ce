"""Named network namespaces and what joins them: veth pairs, switches, addresses, routes. The lab's kernel.

A namespace is known by the name that `ip netns` lists (ip-netns(8)) and carries a label, set before the name exists,
so that whoever was interrupted can tell later whose it is. Nothing here touches the caller's own namespace: whatever
happens inside one is done by a thread that enters it (setns(2) binds only the calling thread) and ends there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute

from agent.kernel.errors import kernel_errors
from agent.kernel.inside import CLONE_NEWNET, NETNS_RUN, run_inside
from agent.kernel.netlink import KernelError, refusals
from proto.errors import CaasError, Code
from proto.names import check_ifname

RUN_DIR = NETNS_RUN
_OWN = "/proc/self/ns/net"
_MS_BIND = 4096  # linux/mount.h
_MNT_DETACH = 2
_LOOPBACK = 1  # net/core/dev.c gives loopback index 1 in every namespace
_IFF_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)

RTNH_F_ONLINK = 4  # linux/rtnetlink.h
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLink:
    """A link as the kernel shows it. `addresses` are IPv4; `master` is "" where it is no port of a bridge."""

    index: int
    name: str
    kind: str
    mtu: int
    up: bool
    master: str
    addresses: tuple[ipaddress.IPv4Interface, ...]


class Inside:
    """The links, addresses, routes and sysctls of one namespace. Only `call_in` makes one."""

    def __init__(self, namespace: str, netlink: IPRoute) -> None:
        self._namespace = namespace
        self._netlink = netlink

    def links(self) -> dict[str, SeenLink]:
        """Every link by name."""
        dump: list[Any] = list(self._netlink.get_links())
        names = {link["index"]: str(link.get("ifname")) for link in dump}
        addresses: dict[int, list[ipaddress.IPv4Interface]] = {}
        for seen in self._netlink.get_addr(family=socket.AF_INET):
            address = ipaddress.IPv4Interface(f"{seen.get('local')}/{seen['prefixlen']}")
            addresses.setdefault(seen["index"], []).append(address)
        return {
            names[link["index"]]: SeenLink(
                index=link["index"],
                name=names[link["index"]],
                kind=link.get(("linkinfo", "kind")) or "",
                mtu=link.get("mtu"),
                up=bool(link["flags"] & _IFF_UP),
                master=names.get(link.get("master") or 0, ""),
                addresses=tuple(addresses.get(link["index"], ())),
            )
            for link in dump
        }

    def create_switch(self, name: str, *, mtu: int) -> None:
        """A bridge that forwards every frame as it is, tagged or not, at once and without opinions on multicast."""
        with self._errors("create", name):
            self._netlink.link(
                "add",
                ifname=check_ifname(name),
                kind="bridge",
                mtu=mtu,
                br_forward_delay=0,
                br_stp_state=0,
                br_mcast_snooping=0,
            )

    def create_veth(self, name: str, *, mtu: int, peer: str, peer_namespace: str, peer_mtu: int) -> None:
        """A veth pair with its other end in *peer_namespace*. One message makes both, so no half of it can stay."""
        with _opened(peer_namespace) as descriptor, self._errors("create", name):
            self._netlink.link(
                "add",
                ifname=check_ifname(name),
                kind="veth",
                mtu=mtu,
                peer={"ifname": check_ifname(peer), "mtu": peer_mtu, "net_ns_fd": descriptor},
            )

    def set_link(self, link: SeenLink, *, mtu: int, up: bool = True, master: SeenLink | None = None) -> None:
        """Give *link* its MTU in bytes, its bridge and its state."""
        with self._errors("change", link.name):
            self._netlink.link(
                "set",
                index=link.index,
                mtu=mtu,
                state="up" if up else "down",
                master=master.index if master is not None else None,
            )

    def delete_link(self, link: SeenLink) -> None:
        """Remove *link*, with its peer where it is a veth; already gone is success."""
        with self._errors("delete", link.name, ignore=errno.ENODEV):
            self._netlink.link("del", index=link.index)

    def add_address(self, link: SeenLink, address: ipaddress.IPv4Interface) -> None:
        """Give *link* an address; a second time changes nothing."""
        with self._errors(f"add {address} to", link.name, ignore=errno.EEXIST):
            self._netlink.addr("add", index=link.index, address=str(address.ip), prefixlen=address.network.prefixlen)

    def set_route(
        self, dst: ipaddress.IPv4Network, via: ipaddress.IPv4Address, *, onlink: SeenLink | None = None
    ) -> None:
        """A route in the main table, in place of whatever route to *dst* it had.

        With *onlink* the gateway is on that link, whatever addresses that has.
        """
        there = {"oif": onlink.index, "flags": RTNH_F_ONLINK} if onlink is not None else {}
        with self._errors(f"route {dst} via {via} in", self._namespace):
            self._netlink.route("replace", dst=str(dst), gateway=str(via), **there)

    def set_sysctl(self, key: str, value: str) -> None:
        """Write a sysctl of the namespace; where the kernel has no such key, UNSUPPORTED.

        Keys are written as sysctl(8) takes them: with dots, or with slashes where a link's name has a dot in it.
        """
        path = Path("/proc/sys", *key.split("/" if "/" in key else "."))
        try:
            if path.read_text().strip() != value:
                path.write_text(value)
        except FileNotFoundError as exc:
            raise CaasError(Code.UNSUPPORTED, f"{self._namespace}: this kernel has no sysctl {key}") from exc

    @contextlib.contextmanager
    def _errors(self, verb: str, name: str, *, ignore: int = 0) -> Iterator[None]:
        with _errors(f"{self._namespace}: {verb} {name}", ignore=ignore):
            yield


def call_in(namespace: str, function: Callable[[Inside], T]) -> T:
    """What *function* returns when it is called inside *namespace*. NOT_FOUND where there is no such namespace."""

    def body() -> T:
        with IPRoute(ext_ack=True) as netlink:
            return function(Inside(namespace, netlink))

    _check_there(namespace)
    return run_inside(namespace, body)


def create_namespace(name: str, *, label: str) -> None:
    """Make the namespace *name*, its loopback up and labelled *label*. CONFLICT where the name is taken."""
    RUN_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = _path(name)
    try:
        path.touch(mode=0o444, exist_ok=False)
    except FileExistsError as exc:
        raise CaasError(Code.CONFLICT, f"namespace {name} exists", hint=f"ip netns del {name}") from exc

    def body() -> None:
        _check(_libc.unshare(CLONE_NEWNET), f"create namespace {name}")
        with IPRoute(ext_ack=True) as netlink, _errors(f"label namespace {name}"):
            netlink.link("set", index=_LOOPBACK, state="up", ifalias=label)
        source, target = b"/proc/thread-self/ns/net", os.fsencode(path)
        _check(_libc.mount(source, target, b"none", _MS_BIND, None), f"name namespace {name}")

    try:
        run_inside(_OWN, body)
    except BaseException:
        path.unlink()
        raise


def delete_namespace(name: str) -> None:
    """Remove the name; what is inside goes with the last process in it. Already gone is success.

    Also removes what an interrupted `create_namespace` left: a file without a namespace.
    """
    path = _path(name)
    while _is_namespace(path):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"delete namespace {name}")
    # The kernel takes the name's mounts out of every mount namespace when the file goes (detach_mounts, fs/namei.c).
    path.unlink(missing_ok=True)


def namespace_names() -> tuple[str, ...]:
    """Every name under /run/netns, sorted; a file there that is no namespace is left out."""
    if not RUN_DIR.is_dir():
        return ()
    return tuple(sorted(entry.name for entry in RUN_DIR.iterdir() if _is_namespace(entry)))


def unfinished_names() -> tuple[str, ...]:
    """Names whose creation or removal was interrupted: empty files where a namespace should be."""
    if not RUN_DIR.is_dir():
        return ()
    return tuple(
        sorted(
            entry.name
            for entry in RUN_DIR.iterdir()
            if not _is_namespace(entry) and entry.is_file() and entry.stat().st_size == 0
        )
    )


def namespace_label(name: str) -> str:
    """The label that *name* was created with; "" where it has none."""

    def read(inside: Inside) -> str:
        (loopback,) = inside._netlink.get_links(_LOOPBACK)
        return str(loopback.get("ifalias") or "")

    return call_in(name, read)


def namespace_id(name: str) -> int | None:
    """The inode that /proc/PID/ns/net of its processes shows (namespaces(7)), None where there is no such name."""
    path = _path(name)
    return path.stat().st_ino if _is_namespace(path) else None


def _path(name: str) -> Path:
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise CaasError(Code.INVALID, f"namespace {name!r}: not a file name")
    return RUN_DIR / name


def _check_there(namespace: str) -> None:
    if not _is_namespace(_path(namespace)):
        raise CaasError(Code.NOT_FOUND, f"namespace {namespace} does not exist")


def _is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted at *path*: then it lies on nsfs, another device than its folder's."""
    try:
        return path.stat().st_dev == os.stat(_OWN).st_dev
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _opened(namespace: str) -> Iterator[int]:
    _check_there(namespace)
    descriptor = os.open(_path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        code = Code.UNSUPPORTED if number in (errno.EPERM, errno.ENOSYS) else Code.FAILED
        hint = "run as root" if number == errno.EPERM else ""
        raise CaasError(code, f"{what}: {os.strerror(number)}", hint=hint)


@contextlib.contextmanager
def _errors(what: str, *, ignore: int = 0) -> Iterator[None]:
    """Netlink's errno as a CaasError. *ignore* is the one that means that it is so already."""
    with kernel_errors(what):
        try:
            with refusals():
                yield
        except KernelError as exc:
            if exc.errno != ignore:
                raise
