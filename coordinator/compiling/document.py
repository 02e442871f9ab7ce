"""What `caas compile --json` prints: the contract of design.md."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from coordinator.compiling.compile import Compiled
from proto.model import Container, Forward, Gateway, HostState, Ipip, Limits, Link, Route, Vlan, Vxlan


def to_document(compiled: Compiled) -> dict[str, Any]:
    """*compiled* as plain dicts, lists, numbers and text. Keys and items are in a stable order."""
    writer = _Writer(compiled)
    gateways = compiled.natbox.gateways if compiled.natbox else ()
    published = any(gateway.publications or gateway.own_addresses for gateway in gateways)
    states = [host.state for host in compiled.hosts.values()] if published else []
    names = {container.nic.address.ip: container.hostname for state in states for container in state.containers}
    return {
        "cluster": compiled.cluster,
        "hosts": {name: writer.host(host.state) for name, host in compiled.hosts.items()},
        "natbox": [_gateway(gateway, names) for gateway in gateways],
        "warnings": list(compiled.warnings),
    }


def _gateway(gateway: Gateway, names: Mapping[IPv4Address, str]) -> dict[str, Any]:
    """One network at NATBox; what it publishes, and its limits, only where there are any."""
    found: dict[str, Any] = {
        "network": gateway.network,
        "vid": gateway.vid,
        "subnet": str(gateway.gateway.network),
        "gateway": str(gateway.gateway.ip),
    }
    return found | describe_publishing(gateway, names)


def describe_publishing(gateway: Gateway, names: Mapping[IPv4Address, str]) -> dict[str, Any]:
    """What *gateway* has of `external`, `publications`, `own_addresses`, `limits`.

    *names* are those of containers; one that is not there is not told.
    """

    def name(address: IPv4Address) -> dict[str, str]:
        return {"container": names[address]} if address in names else {}

    found: dict[str, Any] = {}
    if gateway.external is not None:
        found["external"] = str(gateway.external)
    if gateway.publications:
        found["publications"] = [
            {
                "protocol": one.protocol,
                "port": one.port,
                "to": f"{one.to}:{one.to_port}",
                **name(one.to),
            }
            for one in gateway.publications
        ]
    if gateway.own_addresses:
        found["own_addresses"] = [
            {"external": str(one.external), "address": str(one.address), **name(one.address)}
            for one in gateway.own_addresses
        ]
    if gateway.limits != Limits():
        found["limits"] = {
            "connections": gateway.limits.connections,
            "connections_per_second": gateway.limits.connections_per_second,
        }
    return found


class _Writer:
    """Writes states. Hosts of a large cluster name each other's addresses a million times: each is written once."""

    def __init__(self, compiled: Compiled) -> None:
        #: By id, which are those of objects that *compiled* holds: the hash of an address takes longer than its text.
        self._shown: dict[int, str] = {}
        self._holder = compiled
        self._names: dict[IPv4Address | IPv4Network, str] = {}
        for address, name in compiled.unresolved.items():
            self._names[address] = self._names[IPv4Network(address)] = name
        self._lists: dict[int, list[str | None]] = {}

    def _show(self, value: IPv4Address | IPv4Network | None) -> str | None:
        if value is None:
            return None
        shown = self._shown.get(id(value))
        if shown is None:
            shown = self._shown[id(value)] = self._names.get(value) or str(value)
        return shown

    def _show_all(self, values: tuple[IPv4Network, ...]) -> list[str | None]:
        if id(values) not in self._lists:
            self._lists[id(values)] = [self._show(value) for value in values]
        return self._lists[id(values)]

    def host(self, state: HostState) -> dict[str, Any]:
        """The document of one host."""
        found: dict[str, Any] = {
            "links": [self._link(link) for link in state.links],
            "addresses": [{"link": address.link, "address": str(address.address)} for address in state.addresses],
            "routes": [self._route(route) for route in state.routes],
            "rules": [
                {"from": self._show(rule.src), "to": self._show(rule.dst), "table": rule.table} for rule in state.rules
            ],
            "containers": [_container(container) for container in state.containers],
        }
        if state.masquerades:
            found["masquerades"] = [
                {"source": self._show(rule.source), "exempt": self._show_all(rule.exempt)} for rule in state.masquerades
            ]
        if state.forwards:
            found["forwards"] = [self._forward(forward) for forward in state.forwards]
        return found

    def _route(self, route: Route) -> dict[str, Any]:
        found: dict[str, Any] = {
            "dst": self._show(route.dst),
            "dev": route.dev or None,
            "via": self._show(route.via),
            "src": self._show(route.src),
            "table": route.table,
        }
        if route.encap is not None:
            found["encap"] = self._show(route.encap)
        return found

    def _forward(self, forward: Forward) -> dict[str, Any]:
        return {
            "address": self._show(forward.address),
            "port": forward.port,
            "to": f"{forward.to}:{forward.to_port}",
            "container": forward.mark.object,
        }

    def _link(self, link: Link) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": link.kind, "name": link.name, "mtu": link.mtu}
        if isinstance(link, Vlan):
            found |= {"parent": link.parent, "vid": link.vid, "master": link.master}
        if isinstance(link, Ipip):
            found |= {"local": self._show(link.local), "remote": self._show(link.remote)}
        if isinstance(link, Vxlan):
            found["local"] = self._show(link.local)
        return found


def _container(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": container.hostname,
        "address": str(container.nic.address),
        "mac": container.nic.mac,
        "link": container.nic.bridge,
        "image": container.image,
        "roles": list(container.roles),
        "clone_of": container.clone_of or None,
    }
    if container.merge:
        found["density"] = "high"
    return found
