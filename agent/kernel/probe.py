"""What this kernel can do, found by doing it in a network namespace that nobody else sees and that ends with the probe.

A thread leaves for a new namespace (unshare(2) binds only the thread), makes real devices there with the code that
makes them otherwise, and ends; so does the namespace.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.core.doors import Lack
from agent.kernel import links, masquerade
from agent.kernel.errors import kernel_errors
from agent.kernel.forwards import Forwards
from agent.kernel.inside import CLONE_NEWNET
from agent.kernel.ipip_bpf import BpfTunnels
from agent.kernel.ipip_kernel import KernelTunnels
from agent.kernel.links import IFF_UP
from agent.kernel.netlink import KernelError, Netlink
from agent.kernel.nft import Nft
from agent.kernel.translation import Translation
from agent.kernel.vlan_bpf import BpfVlans
from agent.kernel.vlan_kernel import KernelVlans
from agent.kernel.vxlan import make_mac
from proto.errors import CaasError
from proto.marks import Mark
from proto.model import KIND_IPIP, KIND_VLAN, KIND_VXLAN, Forward, Ipip, Masquerade, Vlan

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21  # linux/capability.h
_MARK = Mark("host", "probe")
_VLAN = Vlan(name="probe.100", parent="probe", vid=100, mtu=1500, master="", mark=_MARK)
_IPIP = Ipip(
    name="probe",
    local=ipaddress.IPv4Address("192.0.2.1"),
    remote=ipaddress.IPv4Address("192.0.2.2"),
    mtu=1480,
    mark=_MARK,
)
_libc = ctypes.CDLL(None, use_errno=True)


def choose(kind: str, forced: str) -> str:
    """ "kernel", "bpf", or "" where *kind*, a vlan, an ipip or a vxlan, can be neither. *forced* is "auto" or the only
    one to try."""
    return next((each for each in _candidates(forced) if _trouble(_REALISATIONS[kind][each]) is None), "")


def find_lacks(forced: Mapping[str, str]) -> list[Lack]:
    """What is missing, with the command that mends it; empty where a bring-up has all it needs of the kernel.

    *forced* is as for `choose`, for each kind.
    """
    missing = [name for bit, name in _NEEDED_CAPABILITIES.items() if not _has_capability(bit)]
    if missing:
        return [Lack(what=f"the agent lacks {' and '.join(missing)}", mend="run caas-agent as root")]
    found = []
    if (trouble := _trouble(_try_bridge)) is not None:
        found.append(Lack(what=f"bridge: {trouble.message}", mend=trouble.hint or "modprobe bridge"))
    for kind, only in forced.items():
        troubles = {each: _trouble(_REALISATIONS[kind][each]) for each in _candidates(only)}
        if None not in troubles.values():
            texts = [f"by the {each}: {trouble.message}" for each, trouble in troubles.items() if trouble]
            mends = [trouble.hint or f"modprobe {_MODULES[kind]}" for trouble in troubles.values() if trouble]
            found.append(Lack(what=f"{kind} devices: {'; '.join(texts)}", mend="; or ".join(dict.fromkeys(mends))))
    if (trouble := _trouble(_try_nft)) is not None:
        found.append(Lack(what=f"nftables: {trouble.message}", mend=trouble.hint or "apt-get install nftables"))
    return found


def _candidates(forced: str) -> tuple[str, ...]:
    return ("kernel", "bpf") if forced == "auto" else (forced,)


def _has_capability(bit: int) -> bool:
    status = Path("/proc/thread-self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> bit & 1)


def _trouble(attempt: Callable[[], None]) -> CaasError | None:
    """What went wrong when *attempt* was made in a namespace of its own, or None."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            with kernel_errors("make a network namespace to try things in"):
                if _libc.unshare(CLONE_NEWNET):
                    error = ctypes.get_errno()
                    raise KernelError(error, os.strerror(error))
            attempt()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=body, name="probe")
    thread.start()
    thread.join()
    if not failures:
        return None
    if isinstance(failures[0], CaasError):
        return failures[0]
    raise failures[0]


def _make_parent(connection: Netlink) -> links.SeenLink:
    index = links.make_ifindex()
    with kernel_errors("make a bridge", hint="modprobe bridge"):
        links.perform(
            connection,
            [links.new_bridge(index, _VLAN.parent, 1500), links.set_link(index, mtu=1500, flags=IFF_UP)],
        )
        return links.list_links(connection).by_index[index]


def _try_bridge() -> None:
    with Netlink() as connection:
        _make_parent(connection)


def _try_kernel_vlan() -> None:
    with Netlink() as connection:
        parent = _make_parent(connection)
        with kernel_errors("make an 802.1Q subinterface", hint="modprobe 8021q"):
            KernelVlans(connection).create(_VLAN, parent, 0)


def _try_bpf_vlan() -> None:
    with Netlink() as connection:
        parent = _make_parent(connection)
        vlans = BpfVlans(connection)
        try:
            with kernel_errors("make a veth pair with BPF programs", hint="modprobe -a veth sch_ingress cls_bpf"):
                vlans.create(links.list_links(connection), _VLAN, parent, 0)
        finally:
            vlans.close()


def _try_kernel_ipip() -> None:
    with Netlink() as connection, kernel_errors("make an ipip device", hint="modprobe ipip"):
        KernelTunnels(connection).create(_IPIP)


def _try_bpf_ipip() -> None:
    with Netlink() as connection:
        tunnels = BpfTunnels(connection)
        try:
            with kernel_errors("make a veth pair with BPF programs", hint="modprobe -a veth sch_ingress cls_bpf"):
                tunnels.create(links.list_links(connection), _IPIP)
        finally:
            tunnels.close()


def _try_vxlan() -> None:
    with Netlink() as connection, kernel_errors("make a vxlan device", hint="modprobe vxlan"):
        index = links.make_ifindex()
        new = links.new_vxlan(index, _IPIP.name, _IPIP.local, mtu=1450, mac=make_mac(_IPIP.local))
        links.perform(connection, [new, links.set_link(index, flags=IFF_UP)])


def _try_nft() -> None:
    source = ipaddress.IPv4Network("192.0.2.0/24")
    table, address = Translation(Nft()), source.network_address
    masquerade.add_masquerade(table, Masquerade(source=source, exempt=(source,), mark=_MARK))
    with Netlink() as connection:
        forward = Forward(address=address, port=22, to=address + 1, to_port=22, mark=_MARK)
        Forwards(connection, table).create(forward)


_NEEDED_CAPABILITIES = {CAP_NET_ADMIN: "CAP_NET_ADMIN", CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}
_MODULES = {KIND_VLAN: "8021q", KIND_IPIP: "ipip"}
_REALISATIONS: dict[str, dict[str, Callable[[], None]]] = {
    KIND_VLAN: {"kernel": _try_kernel_vlan, "bpf": _try_bpf_vlan},
    KIND_IPIP: {"kernel": _try_kernel_ipip, "bpf": _try_bpf_ipip},
    KIND_VXLAN: {"kernel": _try_vxlan},
}
