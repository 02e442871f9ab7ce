"""NATBox's door to the kernel: the path that all VLANs share, and each VLAN's entries in the programs' maps.

Adding or removing a VLAN writes a few map entries and nothing else. An entry is closed (nothing passes) from before
its first neighbour is there until the last one is, and again while it is removed: a crash leaves no VLAN half open,
and always leaves the entry, so that the next observation finds what is to be finished.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

from agent.kernel import natbox_layout as layout
from agent.kernel.bpf import BpfMap
from agent.kernel.errors import kernel_errors
from agent.kernel.layer3 import find_way
from agent.kernel.links import SeenLink, find_link
from agent.kernel.listening import list_listening
from agent.kernel.natbox_chains import UNASKED_REASON, Listen, make_chains, make_shares
from agent.kernel.natbox_connections import Connections
from agent.kernel.natbox_counts import read_counters, read_trunk_drops
from agent.kernel.natbox_cut import make_cut
from agent.kernel.natbox_elements import make_elements
from agent.kernel.natbox_externals import Externals
from agent.kernel.natbox_gate import Gate, GatePiece, find_gate
from agent.kernel.natbox_layout import Seen, SeenGateway, SeenPath, Surroundings
from agent.kernel.natbox_path import Memory, Piece, list_addresses, make_pieces
from agent.kernel.natbox_programs import NatboxPrograms, check_loads
from agent.kernel.natbox_rules import NatboxRules
from agent.kernel.natbox_seen import list_externals, read_gateway
from agent.kernel.netlink import Netlink
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from proto.model import Gateway, GatewayCounters, GatewayPath, GatewayTotals, Neighbour


class NatboxDoor:
    """Trunk and uplink of the namespace *netns* (None: the caller's). Safe for several threads; every call blocks."""

    def __init__(
        self, *, trunk: str, uplink: str, memory: Memory, listen: Listen | None = None, netns: str | None = None
    ) -> None:
        self.path = GatewayPath(trunk=trunk, uplink=uplink)
        self.listen = listen
        self._memory = memory
        self._tally = Tally()
        self._lock = threading.RLock()
        self._route = Netlink(netns=netns, tally=self._tally)
        self._connections = Connections(netns=netns, tally=self._tally)
        self._externals = Externals(self._route)
        self.shares = make_shares(self._connections.most())
        """The limits of a VLAN that has none of its own, until the door is opened again."""
        chains = make_chains(trunk=trunk, uplink=uplink, listen=listen, shares=self.shares)
        self._rules = NatboxRules(chains, netns=netns, tally=self._tally)
        self._programs: NatboxPrograms | None = None
        self._trunk_index = 0
        self._gate = Gate()

    def close(self) -> None:
        """Let go of sockets and maps. What is attached stays."""
        with self._lock:
            if self._programs is not None:
                self._programs.close()
                self._programs = None
            self._route.close()
            self._connections.close()
            self._rules.close()

    @property
    def writes(self) -> int:
        """How many changing netlink, nft, tc, BPF and sysctl calls were made since the door was opened."""
        return self._tally.writes

    def lacks(self) -> Sequence[tuple[str, str]]:
        """What this machine cannot do, each with the command that mends it. Changes nothing."""
        found = []
        for name in (self.path.trunk, self.path.uplink):
            link = self._find(name)
            if link is None:
                found.append((f"link {name} does not exist", "give --trunk and --uplink links that `ip link` lists"))
            elif not link.up:
                found.append((f"link {name} is down", f"ip link set {name} up"))
        checks: tuple[Callable[[], object], ...] = (check_loads, self._rules.check)
        for check in checks:
            try:
                check()
            except CaasError as exc:
                found.append((exc.message, exc.hint or "use a kernel with tc BPF, nftables NAT and conntrack zones"))
        return found

    def trunk_mtu(self) -> int:
        """Bytes of an IPv4 packet on the trunk; a tag comes on top."""
        return self._link(self.path.trunk).mtu

    def uplink_addresses(self) -> Sequence[ipaddress.IPv4Interface]:
        """What out-bound packets may have as their source."""
        index = self._link(self.path.uplink).index
        return [address for _, address in list_addresses(self._route, index)]

    def observe_path(self) -> SeenPath:
        """Which pieces of the shared path are there, and which are missing."""
        return self.observe(()).path

    def lay_path(self) -> None:
        """Make what is missing of the shared path. On a failure, what this call made is removed again."""
        with self._lock, ExitStack() as undo:
            trunk, uplink = self._link(self.path.trunk), self._link(self.path.uplink)
            for link in (trunk, uplink):
                if not link.up:
                    raise CaasError(Code.FAILED, f"link {link.name} is down", hint=f"ip link set {link.name} up")
            for piece in self._pieces(trunk, uplink, self._programs_on(trunk)):
                if not piece.look().is_there:
                    undo.callback(piece.remove)
                    piece.make()
            undo.pop_all()

    def lift_path(self) -> None:
        """Remove the shared path and put settings back to what they were. Already gone is success."""
        with self._lock:
            trunk, uplink = self._find(self.path.trunk), self._find(self.path.uplink)
            if trunk is None or uplink is None:
                self._rules.remove()
                return
            for piece in reversed(self._pieces(trunk, uplink, self._programs_on(trunk))):
                piece.remove()
            for external in self._externals.list_all():
                self._externals.remove(external)

    def find_way(self, destination: ipaddress.IPv4Address) -> str:
        """The link by which this machine sends to *destination*; "" where it has no way there."""
        with kernel_errors(f"look for the way to {destination}"):
            index, _ = find_way(self._route, destination)
        known = (self._find(name) for name in (self.path.uplink, self.path.trunk))
        name = next((link.name for link in known if link is not None and link.index == index), "")
        return name or (f"link {index}" if index else "")

    def surroundings(self) -> Surroundings:
        """The machine's own addresses, and the ports of the uplink's where somebody listens."""
        uplink = self._link(self.path.uplink).index
        addresses = list_addresses(self._route)
        reached = {address.ip for link, address in addresses if link == uplink} | {ipaddress.IPv4Address(0)}
        return Surroundings(
            addresses=frozenset(address.ip for _, address in addresses),
            listening=frozenset(
                (protocol, port)
                for protocol, address, port in list_listening(netns=self._route.netns)
                if address in reached
            ),
        )

    def find_links(self) -> dict[str, SeenLink | None]:
        """Trunk and uplink as they are now."""
        return {name: self._find(name) for name in (self.path.trunk, self.path.uplink)}

    def link(self, name: str) -> SeenLink:
        """NOT_FOUND where it does not exist."""
        return self._link(name)

    def set_gate(self, gate: Gate) -> None:
        """Have the gate so: now, where the path is laid, and whenever it is laid anew."""
        with self._lock:
            self._gate = gate
            trunk = self._find(self.path.trunk)
            if trunk is None:
                return
            programs = self._programs_on(trunk)
            if find_gate(programs.maps_in_use) not in (None, gate):
                self._gate_of(trunk, programs).make()

    def gate(self) -> Gate | None:
        """The gate as the kernel has it; None where it has none."""
        with self._lock:
            return find_gate(self._maps())

    def gateway_addresses(self) -> list[tuple[int, ipaddress.IPv4Address]]:
        """VID and gateway of every VLAN in the maps."""
        with self._lock:
            maps = self._maps()
            entries = [layout.read_vlan_entry(*item) for item in maps["nb_vlans"].items()] if maps else []
            return [(entry.vid, entry.gateway.ip) for entry in entries]

    def observe_all(self) -> dict[int, SeenGateway]:
        """Every VLAN in the maps, by VID."""
        with self._lock:
            maps = self._maps()
            if not maps:
                return {}
            neighbours: dict[int, list[Neighbour]] = {}
            for key, value in maps["nb_neighbours"].items():
                vid, neighbour = layout.read_neighbour(key, value)
                neighbours.setdefault(vid, []).append(neighbour)
            mac = self._link(self.path.trunk).mac.hex(":")
            places, externals = self._rules.observe_all(), self._externals.list_all()
            entries = [layout.read_vlan_entry(*item) for item in maps["nb_vlans"].items()]
            return {
                entry.vid: read_gateway(
                    entry, neighbours.get(entry.vid, ()), places.get(entry.vid, ()), mac=mac, externals=externals
                )
                for entry in entries
            }

    def observe(self, expected: Iterable[Gateway]) -> Seen:
        """The path, and the VLANs of *expected* with what there is of what these have, however many others there are.

        Links, addresses and filters are asked for once: each question costs more than all that a VLAN has.
        """
        with self._lock:
            trunk, uplink = self._find(self.path.trunk), self._find(self.path.uplink)
            nothing = SeenPath(there=(), missing=(f"{self.path.trunk} or {self.path.uplink}",))
            if trunk is None:
                return Seen(path=nothing, vlans={})
            programs = self._programs_on(trunk)
            vlans = self._observe_vlans(programs.maps_in_use, expected, trunk.mac.hex(":"))
            if uplink is None:
                return Seen(path=nothing, vlans=vlans)
            seen = [(piece.title, piece.look()) for piece in self._pieces(trunk, uplink, programs)]
            path = SeenPath(
                there=tuple(title for title, each in seen if each.is_left),
                missing=tuple(title for title, each in seen if not each.is_there),
            )
            return Seen(path=path, vlans=vlans)

    def _observe_vlans(
        self, maps: Mapping[str, BpfMap], expected: Iterable[Gateway], mac: str
    ) -> dict[int, SeenGateway]:
        candidates: dict[int, list[Gateway]] = {}
        for gateway in expected if maps else ():
            candidates.setdefault(gateway.vid, []).append(gateway)
        found = {}
        for vid, gateways in candidates.items():
            key = layout.make_vid_key(vid)
            value = maps["nb_vlans"].lookup(key)
            if value is not None:
                entry = layout.read_vlan_entry(key, value)
                found[vid] = self._observe_one(maps, entry, gateways, mac)
        return found

    def _observe_one(
        self, maps: Mapping[str, BpfMap], entry: layout.VlanEntry, candidates: Sequence[Gateway], mac: str
    ) -> SeenGateway:
        addresses = {near.address for gateway in candidates for near in gateway.neighbours}
        expected = [place for gateway in candidates for place in make_elements(gateway)]
        wanted = {external for gateway in candidates for external in list_externals(gateway)}
        return read_gateway(
            entry,
            _look_up_neighbours(maps["nb_neighbours"], entry.vid, addresses),
            self._rules.observe(entry.vid, expected),
            mac=mac,
            externals=[external for external in wanted if self._externals.has(external)],
        )

    def create(self, gateway: Gateway) -> None:
        """Open the VLAN. CONFLICT where its VID, or what it publishes, is there for somebody else."""
        with self._lock:
            maps, mac = self._laid_maps()
            key = layout.make_vid_key(gateway.vid)
            self._check_owner(maps, gateway)
            maps["nb_vlans"].update(key, layout.make_vlan_entry(gateway, mac=mac, is_open=False))
            self._reset_counters(maps, gateway.vid)
            maps["nb_subnets"].update(layout.make_subnet_key(gateway.gateway.network), layout.USED)
            maps["nb_neighbours"].update_many(layout.make_neighbours(gateway.vid, gateway.neighbours))
            self._open_doors(None, gateway)
            maps["nb_vlans"].update(key, layout.make_vlan_entry(gateway, mac=mac, is_open=True))

    def change(self, before: Gateway, after: Gateway) -> None:
        """Make the VLAN *before* into *after*. What stays of it, and the connections of that, do not notice."""
        with self._lock:
            maps, mac = self._laid_maps()
            self._check_owner(maps, after)
            old = layout.make_neighbours(before.vid, before.neighbours)
            new = layout.make_neighbours(after.vid, after.neighbours)
            maps["nb_subnets"].update(layout.make_subnet_key(after.gateway.network), layout.USED)
            maps["nb_neighbours"].update_many({key: new[key] for key in new if old.get(key) != new[key]})
            self._open_doors(before, after)
            entry = layout.make_vlan_entry(after, mac=mac, is_open=True)
            maps["nb_vlans"].update(layout.make_vid_key(after.vid), entry)
            self._close_doors(before, after)
            for gone in old.keys() - new.keys():
                maps["nb_neighbours"].delete(gone)
            if before.gateway.network != after.gateway.network:
                _release_subnet(maps, before)

    def delete(self, gateway: Gateway) -> None:
        """Close the VLAN, end its connections, forget it. Already gone is success; somebody else's is CONFLICT."""
        with self._lock:
            maps = self._maps()
            key = layout.make_vid_key(gateway.vid)
            if not maps or maps["nb_vlans"].lookup(key) is None:
                return
            self._check_owner(maps, gateway)
            mac = self._link(self.path.trunk).mac.hex(":")
            maps["nb_vlans"].update(key, layout.make_vlan_entry(gateway, mac=mac, is_open=False))
            for near, _ in maps["nb_neighbours"].items():
                if near.startswith(key):  # a neighbour's key begins with its VLAN's
                    maps["nb_neighbours"].delete(near)
            may_be_across = self._rules.publishes()
            self._rules.forget(gateway.vid, make_elements(gateway))
            self._connections.end_all(gateway.vid)
            if may_be_across:
                self._connections.end_across(gateway.vid)
            self._release_externals(list_externals(gateway))
            self._reset_counters(maps, gateway.vid)
            _release_subnet(maps, gateway)
            maps["nb_vlans"].delete(key)

    def _open_doors(self, before: Gateway | None, after: Gateway) -> None:
        """External addresses first, so that what is published there arrives; all of the sets in one transaction."""
        for external in sorted(list_externals(after)):
            self._externals.add(external)
        earlier = make_elements(before) if before is not None else ()
        self._rules.change(after.vid, before=earlier, after=make_elements(after))

    def _close_doors(self, before: Gateway, after: Gateway) -> None:
        """End the connections that *after* would not have, and give back external addresses that it has not."""
        if is_cut := make_cut(before, after):
            self._connections.end_where(after.vid, is_cut)
        self._release_externals(list_externals(before) - list_externals(after))

    def _release_externals(self, externals: Iterable[ipaddress.IPv4Address]) -> None:
        for external in sorted(externals):
            if not self._rules.find_with_external(external):
                self._externals.remove(external)

    def counters(self, vids: Iterable[int]) -> Sequence[GatewayCounters]:
        """What passed and what was dropped of each VID since its entry was made, and its connections of now."""
        with self._lock:
            maps = self._maps()
            if not maps:
                return []
            drops, limits = self._rules.vlan_drops(), self._rules.own_limits()
            open_now = self._connections.count()
            return [
                read_counters(
                    maps,
                    vid,
                    drops.get(vid, {}),
                    connections=open_now[vid],
                    connections_max=limits.get(vid, self.shares.connections),
                )
                for vid in sorted(vids)
            ]

    def totals(self, owned: Iterable[int]) -> GatewayTotals:
        """NATBox as a whole; its drops are those that belong to none of the VIDs *owned*."""
        with self._lock:
            maps = self._maps()
            drops = read_trunk_drops(maps, owned) if maps else {}
            if maps and (unasked := self._rules.unasked()):
                drops[UNASKED_REASON] = unasked
        return GatewayTotals(
            drops=tuple(sorted(drops.items())),
            connections=self._connections.total(),
            connections_max=self._connections.most(),
        )

    def _find(self, name: str) -> SeenLink | None:
        with kernel_errors(f"look for link {name}"):
            return find_link(self._route, name)

    def _link(self, name: str) -> SeenLink:
        found = self._find(name)
        if found is None:
            raise CaasError(Code.NOT_FOUND, f"link {name} does not exist", hint="ip link")
        return found

    def _pieces(self, trunk: SeenLink, uplink: SeenLink, programs: NatboxPrograms) -> tuple[Piece, ...]:
        """First the rules that drop, then the stack, then what lets packets into it."""
        addresses = list_addresses(self._route)
        self._rules.numbers = (trunk.index, uplink.index)
        self._rules.own_addresses = frozenset(address.ip for link, address in addresses if link == uplink.index)
        stack = make_pieces(self._route, trunk, uplink, addresses=addresses, memory=self._memory, tally=self._tally)
        return (self._rules, *stack, programs, self._gate_of(trunk, programs))

    def _gate_of(self, trunk: SeenLink, programs: NatboxPrograms) -> GatePiece:
        return GatePiece(lambda: programs.maps_in_use, self._gate, trunk.mac)

    def _programs_on(self, trunk: SeenLink) -> NatboxPrograms:
        """The programs on *trunk* as they are now."""
        if self._programs is None or self._trunk_index != trunk.index:
            if self._programs is not None:
                self._programs.close()
            self._programs = NatboxPrograms(self._route, trunk, memory=self._memory, tally=self._tally)
            self._programs.adopt()
            self._trunk_index = trunk.index
        else:
            self._programs.see()
        return self._programs

    def _maps(self) -> dict[str, BpfMap]:
        """The maps, or none where no program of ours is attached."""
        return self._maps_on(self._find(self.path.trunk))

    def _maps_on(self, trunk: SeenLink | None) -> dict[str, BpfMap]:
        return dict(self._programs_on(trunk).maps_in_use) if trunk is not None else {}

    def _laid_maps(self) -> tuple[dict[str, BpfMap], str]:
        """The maps, and the trunk's MAC. FAILED where no program of ours is attached."""
        trunk = self._find(self.path.trunk)
        maps = self._maps_on(trunk)
        if not maps or trunk is None:
            raise CaasError(Code.FAILED, f"NATBox's programs are not on {self.path.trunk}", hint="apply a table again")
        return maps, trunk.mac.hex(":")

    def _check_owner(self, maps: dict[str, BpfMap], gateway: Gateway) -> None:
        key = layout.make_vid_key(gateway.vid)
        value = maps["nb_vlans"].lookup(key)
        if value is not None and (owner := layout.read_vlan_entry(key, value).owner).cluster != gateway.cluster:
            raise CaasError(
                Code.CONFLICT,
                f"gateway {gateway.name}: VID {gateway.vid} belongs to cluster {owner.cluster}",
                hint="choose another VID for one of the two clusters",
            )

    def _reset_counters(self, maps: dict[str, BpfMap], vid: int) -> None:
        key = layout.make_vid_key(vid)
        for name in ("nb_traffic", "nb_drops"):
            maps[name].update(key, bytes(maps[name].value_size))


def _look_up_neighbours(table: BpfMap, vid: int, addresses: Iterable[ipaddress.IPv4Address]) -> list[Neighbour]:
    keys = [layout.make_neighbour_key(vid, address) for address in addresses]
    return [layout.read_neighbour(key, value)[1] for key in keys if (value := table.lookup(key)) is not None]


def _release_subnet(maps: dict[str, BpfMap], gateway: Gateway) -> None:
    """Forget the subnet unless another VLAN has the same."""
    own, network = layout.make_vid_key(gateway.vid), gateway.gateway.network
    if not any(key != own and layout.has_subnet(value, network) for key, value in maps["nb_vlans"].items()):
        maps["nb_subnets"].delete(layout.make_subnet_key(network))
