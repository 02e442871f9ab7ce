"""What no plan says of links: that one is down, a port of a container's that is not as it should be, another name."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from agent.kernel import links
from agent.kernel.errors import kernel_errors
from agent.kernel.links import IFF_UP, Links, SeenLink
from agent.kernel.netlink import KernelError, Netlink
from agent.kernel.vlan_kernel import master_name
from proto.errors import CaasError, Code
from proto.model import Bridge, Container


class Ports:
    """MendDoor for the caller's network namespace, or for *netns*. Safe for several threads. Raises CaasError."""

    def __init__(self, *, netns: str | None = None) -> None:
        with kernel_errors("open a netlink socket"):
            self._connection = Netlink(netns=netns)

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()

    def raise_links(self, names: Sequence[str]) -> Sequence[str]:
        """Set those of *names* up that are ours and down; which they were."""
        with kernel_errors(f"set up {', '.join(names)}"):
            seen = links.list_links(self._connection)
            found = [each for name in names if (each := seen.by_name.get(name)) and each.mark and not each.up]
            if found:
                links.perform(self._connection, [links.set_link(each.index, flags=IFF_UP) for each in found])
        return [each.name for each in found]

    def find_stray(self, containers: Sequence[Container]) -> Mapping[str, str]:
        """Of *containers*, which run: what is wrong with their ports, by the container's name."""
        with kernel_errors("list the links"):
            return find_stray_ports(links.list_links(self._connection), containers)

    def join(self, container: Container) -> None:
        """Put the port of *container* on its bridge, up. NOT_FOUND where either is missing, NOT_OWNED."""
        nic, what = container.nic, f"put port {container.nic.port} of {container.name} on {container.nic.bridge}"
        with kernel_errors(what):
            seen = links.list_links(self._connection)
            port, bridge = seen.by_name.get(nic.port), seen.by_name.get(nic.bridge)
            if port is None or bridge is None:
                hint = f"caas exec {container.cluster} {container.hostname} -- reboot makes it a new port"
                raise CaasError(Code.NOT_FOUND, f"{what}: there is no {nic.bridge if port else nic.port}", hint=hint)
            if not _is_its(port, container):
                raise CaasError(Code.NOT_OWNED, f"{what}: a link of that name is not its own")
            master = bridge.index if port.master != bridge.index else None
            mtu = nic.mtu if port.mtu != nic.mtu else None
            links.perform(self._connection, [links.set_link(port.index, master=master, mtu=mtu, flags=IFF_UP)])

    def rename(self, before: Bridge, name: str) -> None:
        """Give the bridge *before*, which is ours, its *name* back, with all that it has."""
        with kernel_errors(f"rename bridge {before.name} to {name}"):
            link = links.find_link(self._connection, before.name)
            if link is None or link.mark != before.mark:
                raise CaasError(Code.NOT_OWNED, f"rename bridge {before.name} to {name}: it is not ours")
            try:
                self._connection.change(lambda route: route.link("set", index=link.index, ifname=name))
            except KernelError as exc:
                if exc.errno != errno.EBUSY:
                    raise
                # Before Linux 6.2 a link keeps its name while it is up.
                links.perform(self._connection, [links.set_link(link.index, flags_off=IFF_UP)])
                self._connection.change(lambda route: route.link("set", index=link.index, ifname=name))
                links.perform(self._connection, [links.set_link(link.index, flags=IFF_UP)])


def find_stray_ports(seen: Links, containers: Sequence[Container]) -> dict[str, str]:
    """Of *containers*, which run: what is wrong with their ports, by the container's name."""
    found = {}
    for container in containers:
        port = seen.by_name.get(container.nic.port)
        if faults := _faults(seen, port, container):
            found[container.name] = faults
    return found


def _faults(seen: Links, port: SeenLink | None, container: Container) -> str:
    nic = container.nic
    if port is None:
        return f"port {nic.port} is gone"
    if not _is_its(port, container):
        return f"port {nic.port} is a {port.kind or 'physical link'} that is not its own"
    bridge = master_name(seen, port)
    faults = [f"on {bridge or 'no bridge'}, not on {nic.bridge}"] if bridge != nic.bridge else []
    faults += [] if port.up else ["down"]
    faults += [f"mtu {port.mtu} -> {nic.mtu}"] if port.mtu != nic.mtu else []
    return f"port {nic.port}: {', '.join(faults)}" if faults else ""


def _is_its(port: SeenLink, container: Container) -> bool:
    return port.kind == "veth" and (not port.alias or port.mark == container.mark)
