"""The straight way between containers and BPF tunnels, past the host's own stack: which containers, and whereto.

Packets out of a tunnel go to the container's port at once; packets for a tunnel go into it from the container's bridge,
where nothing of ours translates them. What is not here is slower, not wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from agent.kernel.bpf_adopted import AdoptedObject
from agent.kernel.filters import Direction
from agent.kernel.ipip_places import INDEX, LEAVERS, LENGTH, PORT, PORTS, THERE, WAYS, Entries, Places, rewrite
from agent.kernel.links import Links, SeenLink
from agent.kernel.tunnel_sources import Translated
from proto.model import Nic

_BRIDGE_BITS = 32


class Straight:
    """Over the maps of *programs*, which its owner adopts; nothing is done where there are none."""

    def __init__(self, programs: AdoptedObject, places: Places) -> None:
        self._programs = programs
        self._places = places
        #: Indices of the bridges that have the program, as last seen.
        self._entrances: set[int] = set()

    def set_ports(self, seen: Links, nics: Iterable[Nic], translated: Translated) -> None:
        """These containers and no others."""
        if PORTS not in self._programs.maps:
            return
        found = {
            nic: (port, bridge)
            for nic in nics
            if (port := seen.by_name.get(nic.port))
            and (bridge := seen.by_name.get(nic.bridge))
            and port.kind == "veth"
            and port.mark
            and port.master == bridge.index
        }
        leaving = {nic: bridge for nic, (_, bridge) in found.items()}
        if found:
            self._complete({bridge.index: bridge for bridge in leaving.values()}.values())
        maps = self._programs.maps
        rewrite(maps[PORTS], {nic.address.ip.packed: _port_entry(nic, *at) for nic, at in found.items()})
        if LEAVERS in maps:
            rewrite(maps[LEAVERS], _leavers(leaving, translated))
            rewrite(maps[WAYS], _ways(leaving, translated))
        self.set_entrances(seen, {bridge.index for bridge in leaving.values()})

    def set_port(self, nic: Nic, port: SeenLink, bridge: SeenLink, translated: Translated) -> None:
        """One container more."""
        if PORTS not in self._programs.maps:
            return
        self._complete([bridge])
        maps, leaving = self._programs.maps, {nic: bridge}
        maps[PORTS].update(nic.address.ip.packed, _port_entry(nic, port, bridge))
        for name, entries in ((LEAVERS, _leavers(leaving, translated)), (WAYS, _ways(leaving, translated))):
            for key, value in entries.items():
                maps[name].update(key, value)
        self._set_entrance(bridge)

    def keep(self, address: IPv4Address) -> None:
        """What the container with *address* sends goes by the host's own stack from now on, until `set_ports`."""
        leavers = self._programs.maps.get(LEAVERS)
        for key, _ in leavers.items() if leavers else ():
            if leavers and key.endswith(address.packed):
                leavers.delete(key)

    def set_entrances(self, seen: Links, wanted: set[int]) -> None:
        """The bridges of ours, by index, whose packets go straight into tunnels."""
        self._entrances = set()
        for link in seen:
            if link.index in wanted:
                self._set_entrance(link)
            elif link.kind == "bridge" and link.mark:
                self._places.clear(link.index, Direction.INGRESS)

    def _complete(self, bridges: Iterable[SeenLink]) -> None:
        """All maps: those of a bridge's program, where an earlier process has left one, or new ones."""
        for link in bridges:
            if LEAVERS in self._programs.maps:
                return
            if there := self._places.find(link.index, Direction.INGRESS):
                self._programs.adopt(there.program_id)
        if LEAVERS not in self._programs.maps:
            self._programs.load()

    def _set_entrance(self, bridge: SeenLink) -> None:
        if bridge.index in self._entrances or not bridge.mark:
            return
        if not self._places.holds(bridge.index, Direction.INGRESS, WAYS):
            self._places.attach(bridge.index, Direction.INGRESS, "ipip_enter")
        self._entrances.add(bridge.index)


def _port_entry(nic: Nic, port: SeenLink, bridge: SeenLink) -> bytes:
    return PORT.pack(port.index, bytes.fromhex(nic.mac.replace(":", "")), bridge.mac)


def _leavers(leaving: Mapping[Nic, SeenLink], translated: Translated) -> Entries:
    return {
        INDEX.pack(bridge.index) + nic.address.ip.packed: THERE
        for nic, bridge in leaving.items()
        if translated.leaves_alone(nic.address.ip)
    }


def _ways(leaving: Mapping[Nic, SeenLink], translated: Translated) -> Entries:
    blocks = {(bridge.index, nic.address.network) for nic, bridge in leaving.items()}
    return {
        LENGTH.pack(_BRIDGE_BITS + way.prefixlen) + INDEX.pack(bridge) + way.network_address.packed: THERE
        for bridge, block in blocks
        for way in translated.find_ways(block)
    }
