"""The kernel's door: what the core's KernelDoor asks, for the namespace that the process lives in.

Each call looks first (one dump of all links, or one request), refuses what must be refused, and then acts. What was
begun and failed is taken back before the failure is raised. Only what carries our mark is changed or removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal, NoReturn

from agent.core.doors import ForeignLink, Lack, NetworkThing, ObservedNetwork, Passage, Search
from agent.kernel import ipip_bpf, layer3, links, masquerade, placement, probe, trunks
from agent.kernel.direct import open_link
from agent.kernel.errors import kernel_errors, take_back
from agent.kernel.forwarding import find_forwarding_lacks
from agent.kernel.forwards import Forwards, read_forwards
from agent.kernel.links import IFF_UP, Links, SeenLink
from agent.kernel.netlink import Netlink
from agent.kernel.nft import Nft
from agent.kernel.passage import find_passages
from agent.kernel.sysctl import find_loud, make_gateway, make_quiet
from agent.kernel.taken_ports import list_taken_ports
from agent.kernel.tally import Tally
from agent.kernel.translation import Translation
from agent.kernel.tunnel_sources import Translated
from agent.kernel.tunnels import Tunnels
from agent.kernel.vlan_bpf import BpfVlans, is_far_end
from agent.kernel.vlan_kernel import KernelVlans, master_name
from agent.kernel.vxlan import Vxlans
from proto.errors import CaasError, Code, invalid
from proto.marks import ROUTE_PROTOCOL
from proto.model import (
    KIND_BRIDGE,
    KIND_IPIP,
    KIND_VLAN,
    KIND_VXLAN,
    Address,
    Bridge,
    Container,
    Datapath,
    Forward,
    HostState,
    Ipip,
    Link,
    Masquerade,
    Route,
    Rule,
    Vlan,
    Vxlan,
)
from proto.model.network import MTU_MAX

#: The MTU that observe() gives a bridge whose sysctls are not as they should be, so that a plan mends it. None has it.
LOUD = MTU_MAX
Realisation = Literal["auto", "kernel", "bpf"]


class NetlinkDoor:
    """Links, addresses, routes, rules and translation of one network namespace; implements KernelDoor.

    *netns* is another namespace's name or path: for tests; a daemon leaves it out. *vlan* and *ipip* force a
    realisation of new ones; those that exist stay what they are. Safe for several threads. Raises CaasError.
    """

    def __init__(self, *, netns: str | None = None, vlan: Realisation = "auto", ipip: Realisation = "auto") -> None:
        self._tally = Tally()
        self._forced = {KIND_VLAN: vlan, KIND_IPIP: ipip}
        self._lock = threading.RLock()
        self._datapath = Datapath()
        with kernel_errors("open a netlink socket"):
            self._connection = Netlink(netns=netns, tally=self._tally)
        self._nft = Nft(netns=netns, tally=self._tally)
        self._translation = Translation(self._nft)
        self._forwards = Forwards(self._connection, self._translation)
        self._kernel_vlans = KernelVlans(self._connection)
        self._bpf_vlans = BpfVlans(self._connection)
        self._tunnels = Tunnels(self._connection, self._nft, self._choose_ipip, self._translated)
        self._vxlans = Vxlans(self._connection, self._nft)

    @property
    def writes(self) -> int:
        return self._tally.writes

    @writes.setter
    def writes(self, value: int) -> None:
        self._tally.writes = value

    def close(self) -> None:
        """Close sockets and descriptors. What was made goes on working."""
        self._bpf_vlans.close()
        self._tunnels.close()
        self._connection.close()

    def __enter__(self) -> NetlinkDoor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def observe(self) -> ObservedNetwork:
        with self._lock, kernel_errors("observe the network"):
            seen = links.list_links(self._connection)
            marked = [each for each in seen if each.kind == KIND_BRIDGE and each.mark]
            loud = find_loud(tuple(each.name for each in marked), netns=self._connection.netns)
            bridges = [
                Bridge(name=each.name, mtu=LOUD if each.name in loud else each.mtu, mark=each.mark)
                for each in marked
                if each.mark
            ]
            ours: tuple[Link, ...] = (
                *bridges,
                *self._kernel_vlans.observe(seen),
                *self._bpf_vlans.observe(seen),
                *self._tunnels.observe(seen),
                *self._vxlans.observe(seen),
            )
            names = {each.name for each in ours}
            seen_addresses = layer3.list_addresses(self._connection, seen)
            addresses = tuple(
                each.thing for each in seen_addresses if each.thing.link in names or each.protocol == ROUTE_PROTOCOL
            )
            translating = self._translation.list_rules()
            state = HostState(
                links=ours,
                addresses=addresses,
                routes=tuple(layer3.list_routes(self._connection, seen)),
                rules=tuple(layer3.list_rules(self._connection)),
                masquerades=tuple(masquerade.read_masquerades(translating)),
                forwards=tuple(self._forwards.observe(translating)),
            )
        places: dict[str, list[IPv4Interface]] = {}
        for found in seen_addresses:
            places.setdefault(found.thing.link, []).append(found.thing.address)
        foreign = {
            each.name: ForeignLink(
                name=each.name, kind=each.kind, mtu=each.mtu, up=each.up, addresses=tuple(places.get(each.name, ()))
            )
            for each in seen
            if not each.mark
        }
        return ObservedNetwork(state=state, foreign=foreign)

    def create(self, thing: NetworkThing) -> None:
        with self._lock, kernel_errors(f"create {thing.kind} {thing.name}"):
            match thing:
                case Bridge():
                    self._create_bridge(thing)
                case Vlan():
                    self._create_vlan(thing)
                case Ipip():
                    if not self.datapath().ipip:
                        raise self._unable(thing)
                    self._tunnels.create(thing)
                case Vxlan():
                    self._vxlans.create(thing)
                case Address():
                    link = self._find(thing.link, thing)
                    if link.mark:  # first: where the address is, nobody looks whether its link forwards
                        make_gateway(link.name, netns=self._connection.netns, tally=self._tally)
                    layer3.add_address(self._connection, thing, link.index)
                    self._refresh()
                case Route():
                    dev = self._find_dev(thing)
                    layer3.add_route(self._connection, thing, dev, encap_src=self._encap_src(thing))
                    self._refresh()
                case Rule():
                    layer3.add_rule(self._connection, thing)
                case Masquerade():
                    masquerade.add_masquerade(self._translation, thing)
                    self._tunnels.refresh()
                case Forward():
                    self._tunnels.keep(thing.to)
                    self._forwards.create(thing)
                case _:
                    _refuse_kind("create", thing)

    def change(self, before: NetworkThing, after: NetworkThing) -> None:
        if type(before) is not type(after) or before.name != after.name:
            raise invalid(f"change {before.kind} {before.name}: it cannot become {after.kind} {after.name}")
        with self._lock, kernel_errors(f"change {after.kind} {after.name}"):
            match before, after:
                case Bridge(), Bridge():
                    link = self._find_owned(links.find_links(self._connection, after.name), after)
                    make_quiet((link.name,), netns=self._connection.netns, tally=self._tally)
                    links.perform(
                        self._connection,
                        [links.set_link(link.index, mtu=after.mtu, mark=after.mark, flags=IFF_UP)],
                    )
                case Vlan(), Vlan():
                    self._change_vlan(after)
                case Ipip(), Ipip():
                    seen = links.list_links(self._connection)
                    self._tunnels.change(self._find_owned(seen, after), seen, after)
                case Vxlan(), Vxlan():
                    seen = links.list_links(self._connection)
                    self._vxlans.change(self._find_owned(seen, after), seen, after)
                case Route(), Route():
                    dev = self._find_dev(after)
                    if before not in layer3.list_routes(self._connection, links.list_links(self._connection)):
                        raise CaasError(Code.NOT_FOUND, f"change route {before.name}: there is no such route of ours")
                    layer3.replace_route(self._connection, after, dev, encap_src=self._encap_src(after))
                    self._refresh()
                case Masquerade(), Masquerade():
                    masquerade.replace_masquerade(self._translation, before, after)
                    self._tunnels.refresh()
                case Forward(), Forward():
                    self._tunnels.keep(after.to)
                    self._forwards.change(before, after)
                    self._tunnels.refresh()
                case (Address(), Address()) | (Rule(), Rule()):
                    pass  # it is its name: there is nothing left to differ
                case _:
                    _refuse_kind("change", after)

    def delete(self, thing: NetworkThing) -> None:
        with self._lock, kernel_errors(f"delete {thing.kind} {thing.name}"):
            match thing:
                case Bridge():
                    link = links.find_link(self._connection, thing.name)
                    if link is not None:
                        self._check_owned(link, thing)
                        links.delete_link(self._connection, link.index)
                case Vlan():
                    self._delete_vlan(thing)
                case Ipip():
                    link = links.find_link(self._connection, thing.name)
                    if link is not None:
                        self._check_owned(link, thing)
                    self._tunnels.delete(thing.name)
                case Vxlan():
                    link = links.find_link(self._connection, thing.name)
                    if link is not None:
                        self._check_owned(link, thing)
                    self._vxlans.delete(thing.name)
                case Address():
                    self._delete_address(thing)
                    self._refresh()
                case Route():
                    link = links.find_link(self._connection, thing.dev) if thing.dev else None
                    if link or not thing.dev:
                        layer3.delete_route(self._connection, thing, link)
                        self._refresh()
                case Rule():
                    layer3.delete_rule(self._connection, thing)
                case Masquerade():
                    masquerade.delete_masquerade(self._translation, thing)
                    self._tunnels.refresh()
                case Forward():
                    self._forwards.delete(thing)
                    self._tunnels.refresh()
                case _:
                    _refuse_kind("delete", thing)

    def sweep(self) -> None:
        with self._lock, kernel_errors("remove what deletions have left"):
            seen = links.list_links(self._connection)
            for link in seen:
                if not link.mark and trunks.find_filter(self._connection, link.index):
                    self._bpf_vlans.sweep(seen, link)
            self._tunnels.sweep()

    def set_port_mark(self, container: Container) -> None:
        nic, what = container.nic, f"mark port {container.nic.port} of container {container.name}"
        with self._lock, kernel_errors(what):
            # By name: a dump of all links for each of many containers takes longer than starting them.
            port = links.find_link(self._connection, nic.port)
            if port is None:
                raise CaasError(Code.NOT_FOUND, f"{what}: there is no such link")
            if port.mark == container.mark:
                return
            bridge = links.find_link(self._connection, nic.bridge)
            if port.kind != "veth" or port.alias or bridge is None or port.master != bridge.index:
                master = master_name(links.list_links(self._connection), port)
                raise CaasError(
                    Code.NOT_OWNED,
                    f"{what}: it is a {port.kind or 'physical link'} on {master or 'no bridge'}"
                    f"{f' called {port.alias!r}' if port.alias else ''}, "
                    f"not an unmarked veth on {nic.bridge}",
                )
            make_quiet((port.name,), netns=self._connection.netns, tally=self._tally)
            links.perform(self._connection, [links.set_link(port.index, mark=container.mark)])
            self._tunnels.set_port(container, port, bridge)

    def adopt_ports(self, containers: Iterable[Container]) -> None:
        with self._lock, kernel_errors("adopt the ports of containers"):
            self._tunnels.adopt_ports(containers)

    def settle_ports(self) -> None:
        with self._lock, kernel_errors("see who filters"):
            self._tunnels.settle_ports()

    def datapath(self) -> Datapath:
        with self._lock:
            found = self._datapath
            if not (found.vlan and found.ipip and found.vxlan):
                chosen = {kind: probe.choose(kind, forced) for kind, forced in self._forced.items()}
                vxlan = probe.choose(KIND_VXLAN, "kernel")
                self._datapath = Datapath(vlan=chosen[KIND_VLAN], ipip=chosen[KIND_IPIP], vxlan=vxlan)
            return self._datapath

    def tunnel_drops(self) -> Mapping[str, int]:
        """Packets that did not come out of a tunnel because they must not, by reason (tunnel_sources.REASONS).

        They are counted while there are tunnels, for all of them together. Wrong checksums that the kernel's own
        realisation meets are counted by the host's stack, on whatever link they come in.
        """
        with self._lock, kernel_errors("read what the tunnels dropped"):
            parts = self._tunnels.drops(), self._vxlans.drops()
            return {reason: sum(part.get(reason, 0) for part in parts) for reason in parts[0]}

    def lacks(self, desired: HostState | None) -> Sequence[Lack]:
        if found := probe.find_lacks(self._forced):
            return found
        with self._lock, kernel_errors("find what stands in the way of forwarding"):
            return find_forwarding_lacks(self._connection, self._nft, desired)

    def find_passages(self, search: Search) -> Mapping[IPv4Address, Passage]:
        return find_passages(self._connection, search)

    def live_routes(self) -> Sequence[IPv4Network]:
        with self._lock, kernel_errors("list the routes"):
            return layer3.list_foreign_destinations(self._connection, links.list_links(self._connection))

    def taken_ports(self) -> Sequence[int]:
        with self._lock, kernel_errors("list the TCP ports that are taken"):
            return list_taken_ports(self._nft, netns=self._connection.netns)

    def _create_bridge(self, wanted: Bridge) -> None:
        placement.check_name_free(links.find_links(self._connection, wanted.name), wanted)
        index = links.make_ifindex()
        with ExitStack() as undo:
            undo.callback(take_back, links.delete_link, self._connection, index)
            links.perform(
                self._connection,
                [
                    links.new_bridge(index, wanted.name, wanted.mtu),
                    links.set_link(index, mark=wanted.mark, mtu=wanted.mtu),
                ],
            )
            make_quiet((wanted.name,), netns=self._connection.netns, tally=self._tally)
            links.perform(self._connection, [links.set_link(index, flags=IFF_UP)])
            undo.pop_all()

    def _create_vlan(self, wanted: Vlan) -> None:
        seen = links.list_links(self._connection)
        placement.check_name_free(seen, wanted)
        parent = placement.check_parent(seen, wanted)
        self._bpf_vlans.sweep(seen, None)
        placement.check_vid_free(seen, wanted, parent, self._bpf_vlans.find_vid(seen, parent, wanted.vid))
        master = placement.find_master(seen, wanted)
        match self.datapath().vlan:
            case "kernel":
                self._kernel_vlans.create(wanted, parent, master)
            case "bpf":
                self._bpf_vlans.create(seen, wanted, parent, master)
            case _:
                raise self._unable(wanted)

    def _choose_ipip(self) -> str:
        return self.datapath().ipip

    def _translated(self) -> Translated:
        rules = self._translation.list_rules()
        targets = frozenset(each.to for each in read_forwards(rules))
        return Translated(masquerades=tuple(masquerade.read_masquerades(rules)), targets=targets)

    def _unable(self, wanted: Vlan | Ipip) -> CaasError:
        lack = next(each for each in probe.find_lacks(self._forced) if each.what.startswith(wanted.kind))
        return CaasError(Code.UNSUPPORTED, f"create {wanted.kind} {wanted.name}: {lack.what}", hint=lack.mend)

    def _refresh(self) -> None:
        """Addresses or routes have changed: what the tunnels take follows from them."""
        self._tunnels.refresh()
        self._vxlans.refresh()

    def _encap_src(self, route: Route) -> IPv4Address | None:
        return self._tunnels.local_of(route.dev) if route.encap else None

    def _find_dev(self, route: Route) -> SeenLink | None:
        """The link of *route*; None where it is the one that the next hop is on."""
        if route.dev:
            return self._find(route.dev, route)
        open_link(self._connection, route)
        return None

    def _change_vlan(self, after: Vlan) -> None:
        seen = links.list_links(self._connection)
        link = self._find_owned(seen, after)
        parent = placement.check_parent(seen, after)
        placement.check_vid_free(seen, after, parent, self._bpf_vlans.find_vid(seen, parent, after.vid))
        master = placement.find_master(seen, after)
        if self._kernel_vlans.is_one(link):
            self._kernel_vlans.change(seen, link, after, master)
        else:
            self._bpf_vlans.change(seen, link, after, master)

    def _delete_vlan(self, unwanted: Vlan) -> None:
        seen = links.list_links(self._connection)
        link = seen.by_name.get(unwanted.name)
        if link is None:
            self._bpf_vlans.sweep(seen, seen.by_name.get(unwanted.parent))
            return
        self._check_owned(link, unwanted)
        if self._kernel_vlans.is_one(link):
            self._kernel_vlans.delete(link)
        elif self._bpf_vlans.is_one(seen, link):
            self._bpf_vlans.delete(seen, link)

    def _delete_address(self, unwanted: Address) -> None:
        seen = links.list_links(self._connection)
        link = seen.by_name.get(unwanted.link)
        found = [each for each in layer3.list_addresses(self._connection, seen) if each.thing == unwanted]
        if link is None or not found:
            return
        if not link.mark and found[0].protocol != ROUTE_PROTOCOL:
            raise CaasError(Code.NOT_OWNED, f"delete address {unwanted.name}: neither it nor its link is ours")
        layer3.delete_address(self._connection, unwanted, link.index)

    def _find(self, name: str, thing: Address | Route) -> SeenLink:
        link = links.find_link(self._connection, name)
        if link is None:
            raise CaasError(Code.NOT_FOUND, f"create {thing.kind} {thing.name}: link {name} does not exist")
        return link

    def _find_owned(self, seen: Links, thing: Link) -> SeenLink:
        link = seen.by_name.get(thing.name)
        if link is None:
            raise CaasError(Code.NOT_FOUND, f"change {thing.kind} {thing.name}: there is no such link")
        self._check_owned(link, thing)
        return link

    def _check_owned(self, link: SeenLink, thing: Link) -> None:
        right_kind: Callable[[SeenLink], bool] = {
            "bridge": lambda each: each.kind == KIND_BRIDGE,
            "vlan": lambda each: self._kernel_vlans.is_one(each) or each.kind == "veth",
            "ipip": lambda each: each.kind == KIND_IPIP or each.kind == "veth",
            "vxlan": lambda each: each.kind == KIND_VXLAN,
        }[thing.kind]
        if not link.mark or is_far_end(link) or ipip_bpf.is_far_end(link) or not right_kind(link):
            raise CaasError(
                Code.NOT_OWNED,
                f"{thing.kind} {thing.name}: what has that name is a {link.kind or 'physical link'}"
                f"{f' of {link.mark}' if link.mark else ' that is not ours'}",
                hint=f"ip link show {thing.name}",
            )


def _refuse_kind(verb: str, thing: NetworkThing) -> NoReturn:
    """For what the vocabulary has and this door has not: nothing is ignored silently."""
    raise CaasError(Code.UNSUPPORTED, f"{verb} {thing.kind} {thing.name}: the kernel's door knows no {thing.kind}")
