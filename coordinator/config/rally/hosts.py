"""Hosts as a deployment file names them: by address, by name, or `localhost`, the coordinator's own."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address

from coordinator.config.cluster import CONTROLLER_TOKEN, Host, Path
from coordinator.config.problem import Place
from coordinator.config.rally.notes import Notes
from coordinator.config.rally.read import LOCALHOST, Part, Peer, Server
from coordinator.config.surroundings import Surroundings


class Hosts:
    """The hosts of one file, each once, in the order in which the file names them."""

    def __init__(self, surroundings: Surroundings, notes: Notes) -> None:
        self._surroundings = surroundings
        self._notes = notes
        self._controller = ""
        self.hosts: dict[str, Host] = {}
        self.places: dict[Path, Place] = {}

    @property
    def controller(self) -> Host | None:
        """The host that the first part of MultihostEngine works on; None before it was set."""
        return self.hosts.get(self._controller)

    def take(self, parts: list[Part]) -> list[list[str]]:
        """The hosts' names of each part; the first part's first host is the controller's."""
        return [self._take_part(part) for part in parts]

    def _take_part(self, part: Part) -> list[str]:
        names: list[str] = []
        for server in part.servers:
            name = self._take(server, part)
            if name in names:
                message = f"{server.name} is there already"
                self._notes.wrong(server.place, server.path, message, hint="each host stands once among credentials")
            elif name:
                names.append(name)
        if names and not self._controller and not part.is_node:
            self._controller = names[0]
        return names

    def _take(self, server: Server, part: Part) -> str:
        if server.name == CONTROLLER_TOKEN and part.is_node and self._controller:
            return self._controller
        host = self._find(server)
        if host is None:
            return ""
        for known in self.hosts.values():
            if known.address is not None and known.address == host.address:
                return known.name
        if host.name not in self.hosts:
            self.hosts[host.name] = host
            self.places[("hosts", host.name)] = server.place
        return host.name

    def _find(self, server: Server) -> Host | None:
        if server.name.lower() in LOCALHOST:
            return self._surroundings.localhost or self._unknown(server, "localhost", "no coordinator was asked")
        try:
            return self._at(IPv4Address(server.name), server.place, server.path)
        except AddressValueError:
            pass
        name = server.name.lower()
        own = self._surroundings.localhost
        if own is not None and name == own.name:
            return own
        address = self._surroundings.addresses.get(name)
        if address is None:
            return self._unknown(server, name, "its name was not looked up")
        return self._at(address, server.place, server.path, name=name)

    def _unknown(self, server: Server, name: str, why: str) -> Host:
        if name not in self.hosts:
            message = f"the address of {name} is not known here: {why}; its name stands for it"
            self._notes.warn(server.place, server.path, message)
        return Host(name=name, address=None)

    def _at(
        self, address: IPv4Address, place: Place, path: str, *, name: str = "", is_peer: bool = False
    ) -> Host | None:
        own = self._surroundings.localhost
        if own is not None and own.address == address:
            return own
        agents = self._surroundings.agents
        if agents is None:
            return Host(name=name or str(address), address=address, is_peer=is_peer)
        if address not in agents:
            message = f"no agent is known at {address}"
            self._notes.wrong(place, path, message, hint=f"known: {_known(agents)}")
            return None
        return Host(name=agents[address], address=address, is_peer=is_peer)

    def take_peers(self, peers: tuple[Peer, ...]) -> list[IPv4Address]:
        """The ends of tunnels, those that are hosts already and those that become known by this."""
        found: list[IPv4Address] = []
        for peer in peers:
            address = peer.address or self._controller_address(peer)
            if address is None or address in found:
                continue
            found.append(address)
            if any(host.address == address for host in self.hosts.values()):
                continue
            host = self._at(address, peer.place, peer.path, is_peer=True)
            if host is not None:
                self.hosts.setdefault(host.name, host)
                self.places.setdefault(("hosts", host.name), peer.place)
        return found

    def _controller_address(self, peer: Peer) -> IPv4Address | None:
        controller = self.controller
        if controller is not None and controller.address is not None:
            return controller.address
        if controller is None:
            message = f"{CONTROLLER_TOKEN}: there is no controller in this file"
            self._notes.wrong(peer.place, peer.path, message, hint="it stands for it in nodes of a MultihostEngine")
        else:
            message = f"{CONTROLLER_TOKEN} adds no tunnel: the address of {controller.name} is not known here, and the "
            self._notes.warn(peer.place, peer.path, message + "tunnels between hosts lead to its containers")
        return None


def _known(agents: Mapping[IPv4Address, str]) -> str:
    return ", ".join(f"{name} ({address})" for address, name in agents.items()) or "none"
